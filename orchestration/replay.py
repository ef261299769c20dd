"""Replay: history through the real processes (broker, featurizer, trainer, predictor, lander) as fast as they go.

The window before ``train_until`` is backfilled and trained in batch, the rest is streamed; everything drains, stops,
and is counted and scored from what rests in the lake and the registry.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from domain.errors import BadState, TidemillError, Unavailable
from domain.services import STREAMS
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS, TRADES
from orchestration.deployment import Deployment
from orchestration.planned import Planned
from orchestration.progress import Progress
from orchestration.report import Report, collect
from orchestration.supervisor import Policy
from warehouse.beginning import begin
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.registry import Registry

TICK_S = 0.25
START_S = 180.0
"""A guard against what neither starts nor fails; a slow, busy machine needs half a minute."""

GIVE_UP = 6
"""Restarts of a service in a row after which a replay stops: the same input will crash it again."""

SOURCED = "featurizer"

STREAMING = (SOURCED, "trainer", "predictor", "lander")


@dataclass
class Replay:
    """One replay.

    Attributes
    ----------
    planned : what to do
    on_tick
        Called about four times a second while the stream runs, for whoever disturbs it; returns whether it did, or
        still will: the replay does not end before, and asks all services again whether they have drained.
    policy : how the shim keeps the services
    give_up : restarts of a service after which the replay stops
    """

    planned: Planned
    on_tick: Callable[[Deployment, Heartbeats], object] = field(default=lambda _deployment, _beats: None)
    policy: Policy = field(default_factory=Policy)
    give_up: int = GIVE_UP

    def run(self, *, verify: bool = False) -> Report:
        """Run it and return what came out; nothing it started is left behind."""
        p = self.planned
        self._seconds: dict[str, float] = {}
        self._deployment = Deployment(p.places, p.project, tended=False, policy=self.policy)
        began = time.monotonic()
        begin(p.places)
        with (
            Control.of(p.places) as control,
            Progress(f"replay of {len(p.project.instruments)} lines") as bar,
        ):
            self._beats = Heartbeats(control)
            try:
                with self._timed("broker"):
                    self._start_broker()
                self._history(control, bar)
                self._stream(bar)
                with self._timed("stop"):
                    self._stop()
            finally:
                self._deployment.supervisor.stop_all(last=("broker",))
                if p.places.kafka_bootstrap_servers:
                    self._delete_topics()
            with self._timed("score"):
                report = collect(p.places, p.project, control, p.starts, p.until, verify=verify)
        self._seconds["total"] = time.monotonic() - began
        report.seconds = {name: round(value, 2) for name, value in self._seconds.items()}
        return report

    def _start_broker(self) -> None:
        from streaming.identity import found_topics

        places = self.planned.places
        if not places.kafka_bootstrap_servers:
            self._deployment.start("broker")
            until = time.monotonic() + START_S
            while not (places.home / "broker" / "address").exists() and time.monotonic() < until:
                self._refuse_failed("broker")
                time.sleep(TICK_S)
        found_topics(places, self.planned.project.instruments)

    def _delete_topics(self) -> None:
        from streaming.topics import delete_topics

        places = self.planned.places
        try:
            delete_topics(places)
        except TidemillError as error:  # what came out stands all the same
            structlog.get_logger().warning("topics left behind", prefix=places.kafka_topic_prefix, error=str(error))

    def _history(self, control: Control, bar: Progress) -> None:
        from assets.backfill import write_bars, write_examples, write_features
        from assets.training import train_initial

        p = self.planned
        registry = Registry(control, p.places.models, model_key(p.places))
        with Lake.open(p.places) as lake:
            for name in p.project.instruments:
                bar.say(f"backfill {name}")
                with self._timed("backfill"):
                    write_bars(lake, p.source, p.project, name, p.starts[name], p.until, "replay")
                    write_features(lake, p.project, name, p.starts[name], p.until, "replay")
                    write_examples(lake, p.project, name, p.starts[name], p.until, "replay")
                bar.say(f"train {name}")
                with self._timed("train"):
                    train_initial(lake, control, registry, p.project, name, p.starts[name], p.until, bar.share)

    def _stream(self, bar: Progress) -> None:
        began = time.monotonic()
        for name in STREAMING:
            self._deployment.start(name)
        self._wait_running(STREAMING)
        self._seconds["start"] = time.monotonic() - began
        streaming = time.monotonic()
        self._deployment.start("ingest")
        drained: set[str] = set()
        while len(drained) < len(STREAMS):
            self._look(bar, drained)
            for name in [n for n in STREAMS if n not in drained]:
                if not self._is_drained(name):
                    break
                drained.add(name)
                self._seconds[name] = time.monotonic() - streaming
            time.sleep(TICK_S)
            if self.on_tick(self._deployment, self._beats):
                drained.clear()
        self._seconds["stream"] = time.monotonic() - streaming

    def _wait_running(self, names: tuple[str, ...]) -> None:
        until = time.monotonic() + START_S
        while True:
            # The featurizer warms, and so is ready, only once its source has sent something, and that starts after it.
            running = {
                b.service for b in self._beats.beats() if b.phase == "running" and (b.ready or b.service == SOURCED)
            }
            if running >= set(names):
                return
            for name in names:
                self._refuse_failed(name)
            if time.monotonic() > until:
                missing = ", ".join(sorted(set(names) - running))
                where = self.planned.places.home / "services"
                raise BadState(f"{missing} did not come up in {START_S:.0f} s; see the logs in {where}")
            time.sleep(TICK_S)

    def _refuse_failed(self, name: str) -> None:
        status = self._deployment.supervisor.status(name)
        looping = status.phase == "backoff" and status.restarts >= self.give_up
        if looping or status.phase in {"failed", "crashed", "crash_loop", "lost"}:
            tail = " | ".join(self._deployment.supervisor.tail(name, 3))
            raise BadState(f"{name} {status.phase}: {status.last_words or status.reason}; its log ends: {tail}")

    def _look(self, bar: Progress, drained: set[str]) -> None:
        for name in ("broker", *STREAMS):
            if name not in drained:
                self._refuse_failed(name)
        beats = {beat.service: beat for beat in self._beats.beats()}
        marks = [beat.detail.get("watermark", 0) for beat in beats.values() if beat.service == "trainer"]
        ends = max(self.planned.source.span(name)[1] for name in self.planned.project.instruments)
        if marks and marks[0]:
            bar.share((marks[0] - self.planned.until) / (ends - self.planned.until))
        learned = next((b.detail.get("n_learned", 0) for b in beats.values() if b.service == "trainer"), 0)
        bar.say(f"streaming, {learned:,} learned")

    def _is_drained(self, name: str) -> bool:
        """Whether a service has handled all that it will ever get; asked in the order of the flow."""
        if name == "ingest":
            return self._deployment.supervisor.status("ingest").phase == "done"
        from streaming.kafka import ends

        inputs = {
            "featurizer": (TRADES if self.planned.source.kind == "trades" else BARS,),
            "trainer": (FEATURES, FEATURES_WITH_TARGET),
            "predictor": (FEATURES,),
            "lander": (BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS),
        }[name]
        # The last beat of a process that has died says nothing of the one that follows it.
        pid = self._deployment.supervisor.status(name).pid
        beats = [beat for beat in self._beats.beats() if beat.service == name and beat.pid == pid]
        newest = max(beats, key=lambda beat: beat.started_at, default=None)
        if newest is None or newest.lag != 0:
            return False
        keys = [(topic, p) for topic in inputs for p in range(len(self.planned.project.instruments))]
        try:
            logs = ends(self.planned.places, keys)
        except Unavailable:  # the broker is on its way back, or _look will find it failed
            return False
        return all(newest.position.get(f"{t}/{p}") == high for (t, p), (_, high) in logs.items())

    def _stop(self) -> None:
        # In the order of the flow: each drains what the one before it has sent; the lander comes last.
        for name in STREAMS:
            self._deployment.supervisor.stop(name)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began
