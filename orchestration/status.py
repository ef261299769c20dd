"""What a person sees of the services: one row each, from the supervisor's files and the heartbeats."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from domain.config import Places, Project
from domain.errors import TidemillError
from domain.health import Beat, live, ready
from domain.services import FLOW, SERVICES
from orchestration.deployment import FOUNDATION, Deployment, supervisor_of
from orchestration.foundation import faults_of
from orchestration.homes import Status
from orchestration.settings import read_places, read_project
from orchestration.wholeness import losses
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.refusals import Refusal, Refusals

SILENT_S = 25.0
"""Seconds of an open connection's silence that are told: exchanges ping every 20 s, or more often."""

REFUSALS, SHOWN = 100, 5
"""Refused versions in the JSON, and below the table."""

SKILL = "skill: how much smaller the recent loss on volatility is than a calibrated average's, for each instrument"


@dataclasses.dataclass(frozen=True)
class Row:
    """One service.

    Attributes
    ----------
    phase : of its process, as the supervisor sees it
    healthy : runs, and its heartbeat (where it has one) says that it is alive and ready
    skill : of each instrument's model, see ``SKILL``
    note : what is wrong
    event_time : how far the market has come for it, UTC
    feed : of ingest: how its connection to the exchange is, see ``markets.feed.Health``
    """

    name: str
    phase: str
    healthy: bool
    pid: int | None = None
    restarts: int = 0
    uptime_s: float | None = None
    lag: int | None = None
    progress: int | None = None
    version: str = ""
    learned: int | None = None
    skill: str = ""
    event_time: str = ""
    note: str = ""
    feed: dict[str, Any] | None = None


def rows_of(places: Places, foundation: Iterable[str], *, ask: bool = False) -> list[Row]:
    """Return a row for every service and for what they stand on, deployed or not yet.

    Parameters
    ----------
    ask : whether what they stand on must answer, too, see ``foundation``; that may take seconds
    """
    beats = _beats(places)
    supervisor = supervisor_of(places)
    deployed = set(supervisor.names())
    statuses = {name: supervisor.status(name) for name in (*foundation, *SERVICES) if name in deployed}
    faults = faults_of(places, {name: statuses[name] for name in foundation if name in statuses}) if ask else {}
    rows = [
        _row(statuses[name], beats.get(name), faults.get(name, ""))
        if name in statuses
        else Row(name, "not deployed", healthy=False)
        for name in (*foundation, *SERVICES)
        if name in statuses or name not in FLOW or not FLOW[name].optional
    ]
    if ask and places.kafka_bootstrap_servers:
        rows.insert(0, Row("broker", "elsewhere", healthy="broker" not in faults, note=faults.get("broker", "")))
    return rows


def _row(status: Status, beat: Beat | None, fault: str = "") -> Row:
    now, running = time.time(), status.phase == "running"
    # A heartbeat counts for the process that sent it, not for its successor.
    ours = beat if beat is not None and beat.pid == status.pid else None
    watched = status.name in SERVICES
    healthy = status.phase == "done" or (running and not fault and (not watched or ready(ours, now)))
    note = "" if healthy else fault or status.last_words or status.reason
    if status.phase == "frozen":
        note = "its process is stopped; its shim ends it within seconds"
    if running and watched and not healthy:
        note = "no heartbeat yet" if ours is None else ("not ready" if live(ours, now) else "stuck or silent")
    if running and ours is not None and (trouble := _trouble(ours)):
        note = f"{note}: {trouble}" if note else trouble
    row = Row(
        status.name,
        status.phase,
        healthy,
        pid=status.pid if running or status.phase == "frozen" else None,
        restarts=status.restarts,
        uptime_s=round(now - status.started_at / 1e9, 1) if status.started_at and running else None,
        note=note,
    )
    if beat is None or not watched:
        return row
    detail = beat.detail
    versions, skills, held = (detail.get(name) or {} for name in ("version", "skill", "held"))
    watermark = detail.get("watermark") or 0
    return dataclasses.replace(
        row,
        feed=detail.get("feed"),
        lag=beat.lag,
        progress=beat.progress,
        version=" ".join(f"v{number}{' held' * (name in held)}" for name, number in versions.items()),
        learned=detail.get("n_learned"),
        skill=" ".join(f"{value:+.1%}" for value in skills.values() if value is not None),
        event_time=datetime.fromtimestamp(watermark / 1e9, UTC).strftime("%Y-%m-%d %H:%M") if watermark else "",
    )


def _trouble(beat: Beat) -> str:
    """Return what a service says is wrong with the market outside."""
    feed = beat.detail.get("feed") or {}
    silent = feed.get("silent_s") or 0.0
    quiet = f"nothing came from the exchange for {silent:.0f} s" if silent > SILENT_S else ""
    waiting = [f"{name} gets nothing: {why}" for name, why in (feed.get("waiting") or {}).items()]
    return "; ".join([why for why in (feed.get("problem"), quiet) if why] + waiting)


def table_of(rows: list[Row], title: str = "") -> Table:
    """Return the rows as a table."""
    legend = SKILL if any(row.skill for row in rows) else None
    looks: dict[str, Any] = {"title_justify": "left", "caption_justify": "left", "padding": (0, 1, 0, 0)}
    table = Table(title=title or None, caption=legend, box=SIMPLE_HEAD, **looks)
    for column in ("service", "phase", "up", "lag", "version", "learned", "skill", "market", "note"):
        side: Literal["left", "right"] = "right" if column in {"up", "lag", "learned"} else "left"
        table.add_column(column, justify=side, no_wrap=column != "note")
    for row in rows:
        soon = row.phase in {"running", "starting", "not deployed"} and not (row.note and row.name in FOUNDATION)
        colour = "green" if row.healthy else "yellow" if soon else "red"
        table.add_row(
            row.name,
            f"[{colour}]{row.phase}[/]",
            "" if row.uptime_s is None else f"{row.uptime_s:.0f} s",
            "" if row.lag is None else f"{row.lag:,}",
            row.version,
            "" if row.learned is None else f"{row.learned:,}",
            row.skill,
            row.event_time[5:],
            row.note,
        )
    return table


def show(*, watch: bool, as_json: bool) -> int:
    """Print the services; return 0 when all are healthy, 1 otherwise.

    Raises
    ------
    UsageError
        When the configuration cannot be read: after what was deployed before has been shown all the same.
    """
    places = read_places()
    console = Console(width=None if sys.stdout.isatty() else 130)
    if watch:
        _watch(places, console)
        return 0
    view = _View.of(places)
    if as_json:
        print(json.dumps(view.plain()))  # noqa: T201
    else:
        console.print(view.screen())
    if view.problem is not None:
        raise view.problem
    return 0 if view.healthy else 1


def _watch(places: Places, console: Console) -> None:
    with Live(_View.of(places).screen(), console=console, refresh_per_second=4) as screen, suppress(KeyboardInterrupt):
        while True:
            time.sleep(1.0)
            screen.update(_View.of(places).screen())


@dataclasses.dataclass(frozen=True)
class _View:
    """What is seen at one moment."""

    market: str
    rows: list[Row]
    refused: list[Refusal]
    lost: list[str]
    problem: TidemillError | None

    @classmethod
    def of(cls, places: Places) -> _View:
        """Look at a home; where its configuration cannot be read, at what was deployed before.

        Raises
        ------
        UsageError
            When the configuration cannot be read and nothing was deployed either.
        """
        refused, lost = refusals_of(places), lost_of(places)
        try:
            deployment = Deployment(places, read_project(places))
        except TidemillError as error:
            deployed = supervisor_of(places).names()
            if not deployed:
                raise
            standing = [name for name in FOUNDATION if name in deployed]
            return cls(f"market: unknown, {error}", rows_of(places, standing, ask=True), refused, lost, error)
        rows = rows_of(places, deployment.foundation, ask=True)
        return cls(market_of(deployment.project), rows, refused, lost, None)

    @property
    def healthy(self) -> bool:
        return self.problem is None and not self.lost and all(row.healthy for row in self.rows)

    def plain(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "problem": str(self.problem or ""),
            "market": self.market,
            "services": [dataclasses.asdict(row) for row in self.rows],
            "lost": self.lost,
            "refused_versions": [dataclasses.asdict(refusal) for refusal in self.refused],
        }

    def screen(self) -> Group:
        refused = refusal_lines(self.refused)
        more = [f"refused: {len(refused) - SHOWN} more, see 'tidemill status --json'"] if len(refused) > SHOWN else []
        lines = [Text(line, style="red") for line in (*self.lost, *refused[:SHOWN], *more)]
        return Group(table_of(self.rows, self.market), *lines)


def lost_of(places: Places) -> list[str]:
    """Return a line for each store of the home that is missing, empty or of another home."""
    try:
        return [f"lost: {loss.line}" for loss in losses(places)]
    except TidemillError as error:
        return [str(error)]


def refusals_of(places: Places) -> list[Refusal]:
    """Return the versions that a service refused to load and that have not loaded since, newest first."""
    refused: list[Refusal] = []
    with _control(places) as control:
        refused += Refusals(control).newest(REFUSALS) if control is not None else []
    return refused


def refusal_lines(refused: list[Refusal]) -> list[str]:
    """Return a line for each refused version: which, by whom, when and why."""
    return [
        f"refused: {r.line} version {r.number} by {r.refused_by}, "
        f"{datetime.fromtimestamp(r.refused_at, UTC):%Y-%m-%d %H:%M:%S} UTC: {r.reason}"
        for r in refused
    ]


def _beats(places: Places) -> dict[str, Beat]:
    """Return the newest heartbeat of each service; none where there is no control database yet."""
    newest: dict[str, Beat] = {}
    with _control(places) as control:
        beats = Heartbeats(control).beats() if control is not None else []
        for beat in sorted(beats, key=lambda b: b.started_at):
            newest[beat.service] = beat
    return newest


@contextmanager
def _control(places: Places) -> Iterator[Control | None]:
    """Open the control database where there is one; what cannot be asked is not shown."""
    with ExitStack() as stack:
        control = None
        with suppress(TidemillError):
            if places.control_url or (places.home / "control.sqlite").exists():  # looking makes none
                control = stack.enter_context(Control.of(places))
        with suppress(TidemillError):
            yield control


def market_of(project: Project) -> str:
    """Return what market it is, in a line."""
    market = project.market
    if market.source == "auto":
        return "market: not settled before the first 'tidemill up'"
    speed = "live" if market.live else f"{market.speed:g}x" if market.speed else "full speed"
    made_up = "SIMULATED, " if market.simulated else ""
    return f"market: {made_up}{market.source}, {speed}; {', '.join(project.instruments)}"
