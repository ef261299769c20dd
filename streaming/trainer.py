"""The trainer: follows vectors and examples in the order in which they could be known, scores, learns, and publishes.

A version holds the whole line with the offsets it stands at, as one value. A restart loads the newest one that is
good, seeks to its offsets and drops what the line has already followed, so nothing is learned twice or skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import structlog

from domain.checkpoint import PROBES, Checkpoint
from domain.errors import BadRecord
from domain.events import Announcement
from domain.fleet import Line
from domain.tables import ExampleTable, VectorTable
from domain.tape import merge, ready_until
from domain.topics import FEATURES, FEATURES_WITH_TARGET, MODEL_VERSIONS
from streaming import codec
from streaming.app import Context, Pulse
from streaming.dead_letters import DeadLetters
from streaming.gate import Gate
from streaming.inbox import Inbox
from streaming.joint import Joint
from streaming.seam import newest_good
from streaming.transport import Key, Logs, Records
from warehouse.leases import Lease
from warehouse.registry import VersionInfo
from warehouse.retention import Retention

LEASE_S = 15.0
STRIDE = 2_000
"""Answers learned between two looks at the clock: River learns this many in about a tenth of a second."""


@dataclass
class _Station:
    """One line on its way: its models, what waits for its turn, and what was published last."""

    line: Line
    lease: Lease
    version: int
    vectors: Inbox[VectorTable]
    examples: Inbox[ExampleTable]
    asks: Gate[VectorTable]
    answers: Gate[ExampleTable]
    snapshot: int | None
    published_n: int
    published_at: float


class Trainer:
    """Consumes ``features`` and ``features_with_target``, publishes versions and announces them."""

    name = "trainer"
    finished = False

    def __init__(self, context: Context) -> None:
        self._context, self._project = context, context.project
        self._stations: dict[int, _Station] = {}
        self._log = structlog.get_logger().bind(service=self.name)
        self._retention = Retention(context.control, context.places.models)
        self._probes = {p: np.empty((0, 16)) for p in range(len(self._project.instruments))}

    def open(self) -> None:
        """Take the lease of each line, load its newest good version and seek to where it stands."""
        context = self._context
        count = len(self._project.instruments)
        self._logs = Logs(context.transport, context.clock, (FEATURES, FEATURES_WITH_TARGET), count)
        start: dict[Key, int] = {}
        for partition, instrument in enumerate(self._project.instruments):
            lease = context.leases.acquire(instrument, context.owner, LEASE_S)
            version, checkpoint = newest_good(context.registry, instrument, self.name)
            line = checkpoint.line
            for topic in (FEATURES, FEATURES_WITH_TARGET):
                start[topic, partition] = self._resume((topic, partition), instrument, checkpoint)
            joints = [self._joint((topic, partition), line, start) for topic in (FEATURES, FEATURES_WITH_TARGET)]
            asks: Gate[VectorTable] = Gate(line.watermark, self._project.interval, self._refuse, joints[0])
            answers: Gate[ExampleTable] = Gate(line.watermark, self._project.interval, self._refuse, joints[1])
            self._stations[partition] = _Station(
                line, lease, version.number, Inbox.of_vectors().start_at(start[FEATURES, partition]),
                Inbox.of_examples().start_at(start[FEATURES_WITH_TARGET, partition]), asks, answers,
                checkpoint.snapshot, line.n_learned, context.clock.monotonic(),
            )  # fmt: skip
            self._probes[partition] = checkpoint.probes
            self._log.info("line loaded", line=instrument, version=version.number, n_learned=line.n_learned)
        self._held = context.clock.monotonic()
        self._reader = context.transport.reader(self.name, start)
        self._writer = context.transport.writer(linger_ms=0)
        self._dead = DeadLetters(self.name, context.control, self._writer)

    def work(self, wait_s: float) -> int:
        """Take in what has arrived and follow each line as far as its tape is complete."""
        handled = 0
        behind = any(self._behind(station) for station in self._stations.values())
        for records in self._reader.poll(0.0 if behind else wait_s):
            station = self._stations[records.partition]
            instrument = self._project.instruments[records.partition]
            following = records.offsets[-1] + 1
            if records.topic == FEATURES:
                asked = station.asks.admit(*codec.vectors(records, instrument, self._refuse), records)
                station.vectors.add(*asked, station.asks.resume(following))
            else:
                table, offsets = codec.examples(records, instrument, self._refuse, self._project.horizon)
                answered = station.answers.admit(table, offsets, records)
                station.examples.add(*answered, station.answers.resume(following))
            handled += len(records.offsets)
        for partition, station in self._stations.items():
            handled += self._follow(partition, station)
        self._hold_leases()
        return handled

    def save(self) -> None:
        """Publish the lines that are due; the version is the checkpoint."""
        self._logs.check()
        self._dead.save()
        every = self._project.publish.every_s
        for partition, station in self._stations.items():
            if every and self._context.clock.monotonic() - station.published_at >= every:
                self._publish(partition, station)
            self._retention.turn(station.lease, self._context.clock.monotonic())
        self._reader.mirror()

    def pulse(self) -> Pulse:
        """Say where the trainer stands."""
        lines = {self._project.instruments[p]: s for p, s in self._stations.items()}
        return Pulse(
            position={f"{t}/{p}": offset for (t, p), offset in self._reader.position.items()},
            progress=sum(s.line.n_learned for s in lines.values()),
            lag=self._lag(),
            ready=bool(lines),
            detail={
                "version": {name: s.version for name, s in lines.items()},
                "n_learned": sum(s.line.n_learned for s in lines.values()),
                "watermark": max((s.line.watermark for s in lines.values()), default=0),
                "dead_letters": self._dead.totals,
                "repeated": sum(s.asks.repeated + s.answers.repeated for s in lines.values()),
                "skill": {name: _skill(s.line) for name, s in lines.items()},
            },
        )

    def close(self, *, clean: bool) -> None:
        """Publish what was learned since the last version, give the leases back and leave the broker."""
        if not hasattr(self, "_reader"):
            return
        try:
            for partition, station in self._stations.items() if clean else ():
                self._publish(partition, station)
                self._context.leases.release(station.lease)
            self._writer.flush()
        finally:
            self._reader.close()

    def _resume(self, key: Key, instrument: str, checkpoint: Checkpoint) -> int:
        """Return where to read on; where the offset is of another log, its start: the watermark drops what is old."""
        topic, partition = key
        offset, watermark = checkpoint.offsets.get(f"{topic}/{partition}"), checkpoint.line.watermark
        start, why = self._logs.resume(
            key, offset, checkpoint.logs.get(topic), lambda value: codec.is_followed(value, watermark)
        )
        if why:
            self._log.error("resuming by watermark", line=instrument, topic=topic, offset=start, reason=why)
        return start

    def _refuse(self, records: Records, i: int, error: BadRecord) -> None:
        self._dead.refuse(records, i, error)

    def _joint(self, key: Key, line: Line, start: dict[Key, int]) -> Joint:
        gone = line.n_learned == 0 or self._logs.has_lost(key, start[key])
        return Joint(f"{key[0]}/{key[1]}", line.watermark, self._project.interval, open_ended=gone)

    def _hold_leases(self) -> None:
        """Renew the leases now and then, in a quiet market too: who has lost one must stop, not wait for a record."""
        now = self._context.clock.monotonic()
        if now - self._held >= LEASE_S / 3:
            for station in self._stations.values():
                self._context.leases.renew(station.lease, LEASE_S)
            self._held = now

    def _lag(self) -> int | None:
        lag = self._reader.lag()
        if lag is None:
            return None
        return lag + sum(len(s.examples.table) for s in self._stations.values() if self._behind(s))

    def _behind(self, station: _Station) -> bool:
        until = ready_until(station.vectors.table, station.examples.table)
        return until is not None and until > station.line.watermark

    def _follow(self, partition: int, station: _Station) -> int:
        """Advance a line by at most ``STRIDE`` answers, stopping where a version is due by count."""
        until = ready_until(station.vectors.table, station.examples.table)
        if until is None or until <= station.line.watermark:
            return 0
        line, due = station.line, self._project.publish.examples
        room = min(STRIDE, due - (line.n_learned - station.published_n))
        available = station.examples.table.available
        if room < len(available):
            # Up to and including the moment of the last answer that fits; questions of that moment come along.
            until = min(until, int(available[room - 1]))
        tape = merge(station.vectors.take(until), station.examples.take(until))
        line.advance(tape, until)
        self._probes[partition] = np.concatenate([self._probes[partition], tape.x[tape.asks]])[-PROBES:]
        if line.n_learned - station.published_n >= due:
            self._publish(partition, station)
        return len(tape)

    def _publish(self, partition: int, station: _Station) -> None:
        line = station.line
        if line.n_learned == station.published_n:
            return
        self._dead.save()  # the version skips what was refused, so that must be safe before it
        self._logs.check(surely=True)
        offsets = {
            f"{FEATURES}/{partition}": station.vectors.next_offset,
            f"{FEATURES_WITH_TARGET}/{partition}": station.examples.next_offset,
        }
        checkpoint = Checkpoint(
            line, self._project.interval, self._project.horizon, offsets, "update", station.version, station.snapshot,
            self._probes[partition], self._logs.identities,
        )  # fmt: skip
        info = VersionInfo(
            parent=station.version,
            kind="update",
            watermark=line.watermark,
            n_learned=line.n_learned,
            snapshot=station.snapshot,
            offsets=offsets,
            digest=line.digest(),
            metrics=line.scores(),
        )
        registry = self._context.registry
        version = registry.publish(line.instrument, registry.seal(checkpoint), info, station.lease)
        station.version, station.published_n = version.number, line.n_learned
        station.published_at = self._context.clock.monotonic()
        news = Announcement(line.instrument, version.number, line.watermark, line.n_learned)
        self._writer.send(MODEL_VERSIONS, partition, line.instrument, [codec.encode(news)])


def _skill(line: Line) -> float | None:
    """Return the recent skill of the volatility champion over the calibrated average, for people to look at."""
    scores = line.scores()["volatility"]
    champion, baseline = scores.get(line.champions["volatility"]), scores.get("ewma")
    if not champion or not baseline or not baseline["recent_loss"]:
        return None
    return round(1.0 - champion["recent_loss"] / baseline["recent_loss"], 4)
