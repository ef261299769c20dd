"""The trainer: follows vectors and examples in the order in which they could be known, scores, learns, and publishes.

A version holds the whole line with the offsets it stands at, as one value. A restart loads the newest one that is
good, seeks to its offsets and drops what the line has already followed, so nothing is learned twice or skipped.

One trainer learns the lines that serve, another one, service ``challenger``, those that challenge them: however far
those are behind, and whatever becomes of them, the model that serves is not kept waiting. When a challenger is
promoted the two exchange their lines while they run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import structlog

from domain.checkpoint import PROBES, Checkpoint
from domain.errors import BadRecord, Unavailable
from domain.events import NANOS_PER_SECOND, Announcement
from domain.fleet import Line
from domain.tables import ExampleTable, VectorTable
from domain.tape import merge
from domain.topics import FEATURES, FEATURES_WITH_TARGET, MODEL_VERSIONS
from streaming import codec
from streaming.app import Context, Pulse
from streaming.dead_letters import DeadLetters
from streaming.gate import Gate
from streaming.inbox import Inbox
from streaming.joint import Joint
from streaming.seam import newest_good
from streaming.station import Station
from streaming.transport import Key, Logs, Records
from warehouse.retention import Retention
from warehouse.versions import VersionInfo

LEASE_S = 15.0
STRIDE = 2_000
"""Answers learned between two looks at the clock: River learns this many in about a tenth of a second."""

LOOK_S = 1.0
"""Seconds between two looks at who plays which part: a promotion is to be felt at once."""

Part = Literal["champion", "challenger"]

SERVICES: dict[Part, str] = {"champion": "trainer", "challenger": "challenger"}
"""The service that learns the lines of each part."""


class Trainer:
    """Consumes ``features`` and ``features_with_target``, publishes versions and announces them.

    Parameters
    ----------
    part : whose lines it learns
    """

    finished = False

    def __init__(self, context: Context, part: Part = "champion") -> None:
        self._context, self._project, self._part = context, context.project, part
        self.name = SERVICES[part]
        self._stations: dict[int, Station] = {}
        self._waiting: set[str] = set()
        self._log = structlog.get_logger().bind(service=self.name)
        self._retention = Retention(context.control, context.places.models)

    def open(self) -> None:
        """Take the lease of each line, load its newest good version and seek to where it stands."""
        context = self._context
        count = len(self._project.instruments)
        self._logs = Logs(context.transport, context.clock, (FEATURES, FEATURES_WITH_TARGET), count)
        start: dict[Key, int] = {}
        for partition, line in self._wanted().items():
            start |= self._take(partition, line)
        self._held = self._looked = context.clock.monotonic()
        self._reader = context.transport.reader(self.name, start)
        self._writer = context.transport.writer(linger_ms=0)
        self._dead = DeadLetters(self.name, context.control, self._writer)

    def work(self, wait_s: float) -> int:
        """Take in what has arrived and follow each line as far as its tape is complete."""
        handled = 0
        self._recast()
        behind = any(station.behind for station in self._stations.values())
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
            if self._is_due(station):  # also where nothing new comes, and so nobody asks to save
                self._publish(partition, station)
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
        lines = {s.line.instrument: s for s in self._stations.values()}
        return Pulse(
            position={f"{t}/{p}": offset for (t, p), offset in self._reader.position.items()},
            progress=sum(s.line.n_learned for s in lines.values()),
            lag=self._lag(),
            ready=bool(lines) or self._part == "challenger",
            detail={
                "version": {name: s.version for name, s in lines.items()},
                "line": {name: s.line.name for name, s in lines.items()},
                "n_learned": sum(s.line.n_learned for s in lines.values()),
                "watermark": max((s.line.watermark for s in lines.values()), default=0),
                "dead_letters": self._dead.totals,
                "repeated": sum(s.asks.repeated + s.answers.repeated for s in lines.values()),
                "skill": {name: s.skill for name, s in lines.items()},
                "unpublished": {name: s.line.n_learned - s.published_n for name, s in lines.items()},
                "published_at": {name: s.published_utc for name, s in lines.items()},
                "due_at": self._due_at(),
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

    def _wanted(self) -> dict[int, str]:
        """Return the lines that play our part now, by partition."""
        names = self._project.instruments
        casts = self._context.roles.all(names)
        parts = {p: getattr(casts[name], self._part) for p, name in enumerate(names)}
        return {p: line for p, line in parts.items() if line is not None}

    def _recast(self) -> None:
        """Now and then give up lines that play our part no longer, and take those that do and are free."""
        now = self._context.clock.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        wanted = self._wanted()
        given = [p for p, station in self._stations.items() if wanted.get(p) != station.line.name]
        for partition in given:
            self._give(partition)
        start: dict[Key, int] = {}
        for partition, line in wanted.items():
            if partition in self._stations:
                continue
            self._logs.measure()
            try:
                start |= self._take(partition, line)
            except Unavailable as error:  # the other trainer still has it: it gives it up at its next look
                if line not in self._waiting:
                    self._log.info("waiting for a line", line=line, reason=str(error))
                self._waiting.add(line)
            else:
                self._waiting.discard(line)
        if given or start:
            going_on = {key: at for key, at in self._reader.position.items() if key[1] in self._stations}
            self._reader.close()
            self._reader = self._context.transport.reader(self.name, going_on | start)

    def _take(self, partition: int, name: str) -> dict[Key, int]:
        """Take a line's lease and load it; return where its input is to be read on from."""
        context, start = self._context, dict[Key, int]()
        owner = context.owner if self._part == "champion" else f"{context.owner}:{self.name}"
        lease = context.leases.acquire(name, owner, LEASE_S)
        version, checkpoint = newest_good(context.registry, name, self.name)
        line = checkpoint.line
        for topic in (FEATURES, FEATURES_WITH_TARGET):
            start[topic, partition] = self._resume((topic, partition), name, checkpoint)
        joints = [self._joint((topic, partition), line, start) for topic in (FEATURES, FEATURES_WITH_TARGET)]
        asks: Gate[VectorTable] = Gate(line.watermark, self._project.interval, self._refuse, joints[0])
        answers: Gate[ExampleTable] = Gate(line.watermark, self._project.interval, self._refuse, joints[1])
        self._stations[partition] = Station(
            line, lease, version.number, Inbox.of_vectors().start_at(start[FEATURES, partition]),
            Inbox.of_examples().start_at(start[FEATURES_WITH_TARGET, partition]), asks, answers,
            checkpoint, checkpoint.probes, line.n_learned, context.clock.monotonic(), version.created_at,
        )  # fmt: skip
        self._log.info("line loaded", line=name, version=version.number, n_learned=line.n_learned)
        return start

    def _give(self, partition: int) -> None:
        """Publish what a line has learned, and leave it to whoever plays its new part."""
        station = self._stations[partition]
        self._publish(partition, station)
        self._context.leases.release(station.lease)
        del self._stations[partition]
        self._log.info("line given up", line=station.line.name, version=station.version)

    def _resume(self, key: Key, line: str, checkpoint: Checkpoint) -> int:
        """Return where to read on; where the offset is of another log, its start: the watermark drops what is old."""
        topic, partition = key
        offset, watermark = checkpoint.offsets.get(f"{topic}/{partition}"), checkpoint.line.watermark
        start, why = self._logs.resume(
            key, offset, checkpoint.logs.get(topic), lambda value: codec.is_followed(value, watermark)
        )
        if why:
            self._log.error("resuming by watermark", line=line, topic=topic, offset=start, reason=why)
        return start

    def _refuse(self, records: Records, i: int, error: BadRecord) -> None:
        self._dead.refuse(records, i, error)

    def _joint(self, key: Key, line: Line, start: dict[Key, int]) -> Joint:
        gone = line.n_learned == 0 or self._logs.has_lost(key, start[key])
        return Joint(f"{key[0]}/{key[1]}", line.watermark, self._project.interval, open_ended=gone)

    def _due_at(self) -> float | None:
        """Return by when the oldest example in no version should be in one, unix seconds; see ``domain.health``."""
        every = self._project.publish.every_s
        waiting = [s.waits_since for s in self._stations.values() if s.waits_since is not None]
        if not every or not waiting:
            return None
        clock = self._context.clock
        return clock.time_ns() / NANOS_PER_SECOND + min(waiting) + every - clock.monotonic()

    def _is_due(self, station: Station) -> bool:
        every = self._project.publish.every_s
        now = self._context.clock.monotonic()
        return bool(every) and station.waits_since is not None and now >= station.waits_since + every

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
        return lag + sum(len(s.examples.table) for s in self._stations.values() if s.behind)

    def _follow(self, partition: int, station: Station) -> int:
        """Advance a line by at most ``STRIDE`` answers, stopping where a version is due by count."""
        until = station.ready_until
        if until is None:
            return 0
        line, due = station.line, self._project.publish.examples
        room = min(STRIDE, due - (line.n_learned - station.published_n))
        available = station.examples.table.available
        if room < len(available):
            # Up to and including the moment of the last answer that fits; questions of that moment come along.
            until = min(until, int(available[room - 1]))
        tape = merge(station.vectors.take(until), station.examples.take(until))
        line.advance(tape, until)
        if station.waits_since is None and line.n_learned > station.published_n:
            station.waits_since = self._context.clock.monotonic()
        station.probes = np.concatenate([station.probes, tape.x[tape.asks]])[-PROBES:]
        if line.n_learned - station.published_n >= due:
            self._publish(partition, station)
        return len(tape)

    def _publish(self, partition: int, station: Station) -> None:
        line = station.line
        if line.n_learned == station.published_n:
            return
        self._dead.save()  # the version skips what was refused, so that must be safe before it
        self._logs.check(surely=True)
        offsets = {
            f"{FEATURES}/{partition}": station.vectors.next_offset,
            f"{FEATURES_WITH_TARGET}/{partition}": station.examples.next_offset,
        }
        checkpoint = replace(
            station.base, line=line, offsets=offsets, kind="update", parent=station.version, probes=station.probes,
            logs=self._logs.identities,
        )  # fmt: skip
        registry = self._context.registry
        version = registry.publish(line.name, registry.seal(checkpoint), VersionInfo.of(checkpoint), station.lease)
        station.version, station.published_n = version.number, line.n_learned
        station.published_at, station.published_utc = self._context.clock.monotonic(), version.created_at
        station.waits_since = None
        news = Announcement(line.name, version.number, line.watermark, line.n_learned)
        self._writer.send(MODEL_VERSIONS, partition, line.instrument, [codec.encode(news)])
