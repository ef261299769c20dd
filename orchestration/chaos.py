"""Chaos: one replay undisturbed, one under faults on the same data, and every difference between what they leave.

The faults follow a schedule that is a function of the seed alone. Its instants are told in examples learned, not in
seconds, so that a failure can be run again on any machine; ``delay_s`` then spreads them within the services' loops.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog

from domain.config import Publish
from domain.errors import BadState
from domain.services import STREAMS
from orchestration import faults
from orchestration.deployment import Deployment
from orchestration.differences import Verdict, compare
from orchestration.faults import Fault, Moment, schedule
from orchestration.planned import Planned, as_toml
from orchestration.replay import Replay
from orchestration.report import Report
from orchestration.supervisor import Policy
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats

STALL_S = 300.0
"""Without a newly learned example for so long, a disturbed run has failed to recover."""

PUBLISH = 40
"""Examples between two versions: a killed trainer has versions to come back to, and some steps to make again."""

KEPT = Policy(base_s=0.05, max_s=1.0, stable_s=1.0, max_fails=1_000_000, grace_s=60.0, frozen_s=0.0)
"""A service that is killed hundreds of times is no crash loop, and one that is paused is to go on; what never
recovers is found by ``STALL_S``."""


@dataclass
class Outcome:
    """A chaos run in numbers."""

    seed: int
    kills: dict[str, int]
    faults: dict[str, int]
    schedule: list[str]
    notes: list[str]
    seconds: dict[str, float]
    versions: int
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def first_difference(self) -> str:
        """The first difference, an empty text when there is none."""
        return next(iter(self.verdict.differences), "")

    def print(self, *, as_json: bool) -> None:
        """Print it on stdout."""
        v = self.verdict
        if as_json:
            print(json.dumps(asdict(self)))  # noqa: T201 - what stdout is for
            return
        rows = ", ".join(f"{n:,} {table}" for table, n in v.rows.items())
        same = sum(one == other for one, other in v.digests.values())
        killed = ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items()))
        lines = [
            f"seed {self.seed}: {sum(self.kills.values())} kills ({killed})",
            *(f"{fault}: {n}" for fault, n in self.faults.items() if fault != "kill"),
            f"{rows}: {v.lost} lost, {v.doubled} doubled; {v.learned:,} examples learned, {self.versions} versions",
            f"{same} of {len(v.digests)} digests identical; {v.answers:,} predictions are what their version says",
            "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in self.seconds.items()),
            *v.differences,
        ]
        print("\n".join(lines))  # noqa: T201 - what stdout is for


class Disturbance:
    """Carries a schedule out while a replay runs.

    Parameters
    ----------
    base : examples that the lines had learned before the stream
    end_broker : kills a broker that is not ours and brings it back, None where the supervisor keeps it
    """

    def __init__(
        self,
        moments: Sequence[Moment],
        base: int,
        seed: int,
        end_broker: Callable[[], None] | None = None,
    ) -> None:
        self._moments, self._base, self._rng = list(moments), base, random.Random(seed)
        self._end_broker = end_broker
        self._learned, self._grew = 0, time.monotonic()
        self._waiting: list[str] = []  # to be killed as soon as there is a process
        self._due: float | None = None
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.notes: list[str] = []
        self._log = structlog.get_logger()

    def __call__(self, deployment: Deployment, beats: Heartbeats) -> bool:
        """Do what is due; return whether anything was done or is still to come."""
        self._measure(beats)
        self._waiting = [name for name in self._waiting if not self._kill(deployment, name)]
        if not self._moments:
            return bool(self._waiting)
        moment = self._moments[0]
        if self._learned < moment.learned or self._waiting:
            return True
        now = time.monotonic()
        self._due = self._due or now + moment.delay_s
        if now >= self._due:
            self._due = None
            self._moments.pop(0)
            self._log.info("chaos", left=len(self._moments), now=str(moment))
            self._act(moment, deployment, beats)
        return True

    def _measure(self, beats: Heartbeats) -> None:
        said = [beat.detail.get("n_learned", 0) for beat in beats.beats() if beat.service == "trainer"]
        learned = max(said, default=0) - self._base
        if learned > self._learned:
            self._learned, self._grew = learned, time.monotonic()
        if self._moments and time.monotonic() - self._grew > STALL_S:
            raise BadState(
                f"nothing was learned for {STALL_S:.0f} s at {self._learned:,} examples; next would be: "
                f"{self._moments[0]}; see the services' logs"
            )

    def _act(self, moment: Moment, deployment: Deployment, beats: Heartbeats) -> None:
        self.faults[moment.fault] += 1
        if moment.fault == "kill":
            self._waiting = [name for name in moment.victims if not self._kill(deployment, name)]
            return
        (victim, *_) = moment.victims
        if moment.fault == "pause":
            self.notes.append(f"pause {victim}: the copy ended: {faults.pause(deployment, victim, beats)}")
        elif moment.fault == "duplicate":
            self.notes.append(f"duplicate {victim}: the copy ended: {faults.duplicate(deployment, victim, beats)}")
        else:
            with Control.of(deployment.places) as control:
                self.notes += faults.tear(deployment, control, self._rng)
        self._grew = time.monotonic()

    def _kill(self, deployment: Deployment, name: str) -> bool:
        """Kill a service when it has a process; one that has finished stands back for the trainer."""
        if deployment.supervisor.status(name).phase == "done":
            name = "trainer"
        if name == "broker" and self._end_broker is not None:
            self._end_broker()
            self.kills[name] += 1
            return True
        killed = deployment.supervisor.kill(name, signal.SIGKILL)
        self.kills[name] += killed
        return killed


def run(
    planned: Planned,
    kills: int,
    seed: int,
    trials: int = 1,
    kinds: Sequence[Fault] = ("kill",),
    end_broker: Callable[[], None] | None = None,
) -> Outcome:
    """Run both replays and compare them; the homes lie in the planned one.

    Parameters
    ----------
    end_broker : as for ``Disturbance``; without it a broker that is not ours is not killed

    Raises
    ------
    BadState
        When the disturbed run does not recover.
    """
    log = structlog.get_logger()
    calm, wild = (at_home(planned, planned.places.home / name) for name in ("undisturbed", "disturbed"))
    first = Replay(calm).run()
    stream = first.streamed["examples"]
    ours = end_broker is not None or not planned.places.kafka_bootstrap_servers
    victims = ("broker", *STREAMS) if ours else STREAMS
    moments = schedule(seed, kills, trials, kinds, stream, victims)
    for moment in moments:
        log.info("scheduled", what=str(moment))
    wild = paced(wild, len(moments) * _gap_s(first))
    disturbance = Disturbance(moments, first.learned - stream, seed, end_broker)
    second = Replay(wild, on_tick=disturbance, policy=KEPT, give_up=sys.maxsize).run()
    return _outcome(seed, disturbance, moments, first, second, compare(calm.places, wild.places, calm.project))


def _outcome(
    seed: int, done: Disturbance, moments: Sequence[Moment], first: Report, second: Report, verdict: Verdict
) -> Outcome:
    seconds = {
        "undisturbed": first.seconds["total"],
        "disturbed": second.seconds["total"],
        "disturbed_stream": second.seconds["stream"],
    }
    what = [str(moment) for moment in moments]
    return Outcome(seed, dict(done.kills), dict(done.faults), what, done.notes, seconds, second.versions, verdict)


def at_home(planned: Planned, home: Path) -> Planned:
    """Return the plan in a home of its own, with versions often and by count only."""
    home.mkdir()
    prefix = planned.places.kafka_topic_prefix  # two runs on one broker must not share a topic
    places = planned.places.model_copy(
        update={
            "home": home,
            "config": home / "tidemill.toml",
            "kafka_topic_prefix": f"{prefix}{home.name}." if prefix else "",
        }
    )
    project = planned.project.model_copy(update={"publish": Publish(examples=PUBLISH, every_s=0)})
    places.config.write_text(as_toml(project), "utf-8")
    return replace(planned, places=places, project=project)


def _gap_s(first: Report) -> float:
    """Return seconds from one instant to the next: about what a service needs to come back on this machine."""
    return min(5.0, max(1.0, first.seconds["start"] / 2))


def paced(planned: Planned, stream_s: float) -> Planned:
    """Return the plan with a market that lasts so long, wall seconds, if nothing held it up."""
    ends = max(planned.source.span(name)[1] for name in planned.project.instruments)
    market = planned.project.market.model_copy(update={"speed": (ends - planned.until) / 1e9 / max(1.0, stream_s)})
    project = planned.project.model_copy(update={"market": market})
    planned.places.config.write_text(as_toml(project), "utf-8")
    return replace(planned, project=project)


def drawn_market(home: Path, kills: int, seed: int) -> Path:
    """Write a candle file long enough for so many kills, and return its path."""
    from markets.drawn import draw_candles

    path = home / "candles.parquet"
    # Half is history, which trains the first model; of the rest some 25 examples of each of two lines go by a kill.
    draw_candles(path, ("AAA-USD", "BBB-USD"), 2 * max(750, 25 * kills), seed)
    return path
