"""How far a start has come: history, training, services, and how long nothing has moved.

What moves is counted, not timed: processes of the foundation, events of the first run in Dagster, services that became
healthy. A service that dies and starts again and again moves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from domain.config import Places, Project
from domain.services import SERVICES
from orchestration.deployment import Deployment
from orchestration.looks import control_of, lines_without_version
from orchestration.status import Row

if TYPE_CHECKING:
    import dagster as dg  # seconds of imports, which only a first start needs

State = Literal["waiting", "running", "done", "failed"]
COLOURS: dict[State, str] = {"waiting": "dim", "running": "yellow", "done": "green", "failed": "red"}

HISTORY_STEPS = ("bars", "features", "examples")
TRAINING_STEP = "initial_model"
TRAINING_LINES = 5
"""Logged for each instrument: four quarters of the history, and the version."""


@dataclass(frozen=True)
class Part:
    """One part of a start.

    Attributes
    ----------
    count : str
        How much of it is done; empty while it waits for the part before it.
    detail : str
        What it does just now. Two parts that differ in this or in ``left_s`` alone are equal.
    left_s : float, optional
        Estimate of the seconds that it still needs.
    """

    name: str
    state: State
    count: str = ""
    detail: str = field(default="", compare=False)
    left_s: float | None = field(default=None, compare=False)

    @property
    def line(self) -> str:
        """How much is done, what it does, and how long it still needs."""
        left = "" if self.left_s is None else f"about {self.left_s:.0f} s left"
        return "; ".join(filter(None, (self.count, self.detail, left)))


@dataclass
class Run:
    """What is known of the first run, which fills history and trains.

    Attributes
    ----------
    cursor : str, optional
        Of the events read so far.
    steps : dict
        State of each step by its name.
    lines : dict
        What each step has logged.
    began : dict
        When each step began, unix seconds.
    """

    run_id: str = ""
    failure: str = ""
    cursor: str | None = None
    steps: dict[str, State] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)


class FirstRun:
    """Reads Dagster's events of the newest run that brings the system up.

    Parameters
    ----------
    instance : DagsterInstance
        Of the home.
    pieces : int
        In which each table is written; its step logs a line for each.
    instruments : int

    Attributes
    ----------
    events : int
        Read so far, of all runs.
    """

    def __init__(self, instance: dg.DagsterInstance, pieces: int, instruments: int) -> None:
        self._instance, self._pieces, self._trained = instance, pieces, TRAINING_LINES * instruments
        self._run = Run()
        self.events = 0

    def look(self) -> list[Part]:
        """Return the parts ``history`` and ``training``."""
        from dagster import RunsFilter

        from orchestration.jobs import BOOTSTRAP

        newest = self._instance.get_runs(RunsFilter(job_name=BOOTSTRAP), limit=1)
        if not newest:
            return [Part("history", "waiting", detail="Dagster's daemon asks for it"), Part("training", "waiting")]
        if newest[0].run_id != self._run.run_id:
            self._run = Run(newest[0].run_id)
        self._read()
        parts = [
            self._part("history", HISTORY_STEPS, self._pieces * len(HISTORY_STEPS)),
            self._part("training", (TRAINING_STEP,), self._trained),
        ]
        if failure := self._run.failure:
            words = f"{failure}; see run {self._run.run_id} and sensor bootstrap in Dagster"
            at = next((k for k, part in enumerate(parts) if part.state != "done"), None)
            parts[at:] = [Part(parts[at].name, "failed", detail=words), *parts[at + 1 :]] if at is not None else []
        return parts

    def _read(self) -> None:
        from dagster import DagsterEventType

        kinds: dict[DagsterEventType, State] = {
            DagsterEventType.STEP_START: "running",
            DagsterEventType.STEP_SUCCESS: "done",
            DagsterEventType.STEP_FAILURE: "failed",
        }
        run = self._run
        found = self._instance.get_records_for_run(run.run_id, cursor=run.cursor)
        run.cursor = found.cursor
        self.events += len(found.records)
        for entry in (record.event_log_entry for record in found.records):
            step = entry.step_key or ""
            if entry.dagster_event is None:
                run.lines.setdefault(step, []).append(entry.user_message)
            elif state := kinds.get(entry.dagster_event.event_type):
                run.steps[step] = state
                run.began.setdefault(step, entry.timestamp)
                if state == "failed":
                    run.failure = _cause(entry.dagster_event)
            elif entry.dagster_event.is_failure:  # of the run: its worker was killed, or never came
                run.failure = run.failure or str(entry.dagster_event.message)

    def _part(self, name: str, steps: Sequence[str], total: int) -> Part:
        run = self._run
        states = [run.steps.get(step, "waiting") for step in steps]
        if all(state == "done" for state in states):
            return Part(name, "done")
        if set(states) == {"waiting"}:
            return Part(name, "waiting", detail="its run starts" if name == "history" else "")
        lines = [line for step in steps for line in run.lines.get(step, ())]
        done = min(total, len(lines))
        took = time.time() - min(run.began[step] for step in steps if step in run.began)
        left_s = took * (total - done) / done if done else None
        return Part(name, "running", f"{done} of {total}", lines[-1] if lines else "", left_s)


class Startup:
    """Watches a start until its first prediction.

    Parameters
    ----------
    deployment : Deployment
    first : FirstRun, optional
        None where every line has a model: then there is nothing to fill and to train.
    """

    def __init__(self, deployment: Deployment, first: FirstRun | None) -> None:
        self._deployment, self._first = deployment, first
        self._reached: set[tuple[str, str]] = set()
        self._events = 0
        self._complete = False
        self._moved = time.monotonic()

    def look(self, rows: Sequence[Row]) -> list[Part]:
        """Return the parts as they are now, in their order."""
        parts = [_processes("foundation", [row for row in rows if row.name in self._deployment.foundation])]
        if self._first is not None:
            parts += self._first.look()
        parts.append(_processes("services", [row for row in rows if row.name in SERVICES]))
        reached = {(row.name, "healthy") for row in rows if row.healthy} | {(row.name, row.phase) for row in rows}
        events = self._first.events if self._first is not None else 0
        if reached - self._reached or events != self._events:
            self._reached |= reached
            self._events, self._moved = events, time.monotonic()
        self._complete = self._complete or all(part.state == "done" for part in parts)
        return parts

    @property
    def still_s(self) -> float:
        """Seconds for which nothing has moved."""
        return time.monotonic() - self._moved

    def stands_still(self, patience_s: float) -> bool:
        """Tell whether nothing has moved for so long.

        Once everything has been healthy, the prediction waits for the market's next interval: one more is allowed.
        """
        interval_s = self._deployment.project.interval / 1e9
        return self.still_s > patience_s + (interval_s if self._complete else 0.0)


@contextmanager
def startup(places: Places, project: Project, deployment: Deployment, directory: Path) -> Iterator[Startup]:
    """Yield the watch over a start.

    Parameters
    ----------
    directory : Path
        Of Dagster's instance, see ``orchestration.instance.prepare_instance``.
    """
    with control_of(places) as control:
        missing = lines_without_version(control, places, project)
    if not missing:
        yield Startup(deployment, None)
        return
    from assets.history import pieces
    from assets.partitions import history_of
    from orchestration.instance import opened

    spans = [history_of(project, name) for name in missing]
    count = sum(len(list(pieces(span.start, span.until, project.interval))) for span in spans)
    with opened(directory, places.dagster_url) as instance:
        yield Startup(deployment, FirstRun(instance, count, len(missing)))


def still_part(parts: Sequence[Part]) -> Part:
    """Return the first part that is not done: the one that the others wait for."""
    return next((part for part in parts if part.state != "done"), Part("prediction", "waiting"))


def table_of(parts: Sequence[Part]) -> Table:
    """Return the parts as a table."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("start", "", ""):
        table.add_column(column)
    for part in parts:
        table.add_row(part.name, f"[{COLOURS[part.state]}]{part.state}[/]", part.line)
    return table


def _cause(event: dg.DagsterEvent) -> str:
    """Return the first line of what made a step fail."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return (error.message.strip().splitlines() or [""])[0] if error is not None else str(event.message)


def _processes(name: str, rows: Sequence[Row]) -> Part:
    healthy = sum(row.healthy for row in rows)
    if healthy == len(rows):
        return Part(name, "done", f"{healthy} of {len(rows)}")
    if all(row.phase == "not deployed" for row in rows):
        return Part(name, "waiting")
    sick = [f"{row.name} {row.note or row.phase}" for row in rows if not row.healthy]
    return Part(name, "running", f"{healthy} of {len(rows)}", ", ".join(sick))
