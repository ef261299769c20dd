"""What must hold after every step, checked against what an undisturbed run gives."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from domain.checkpoint import Checkpoint
from domain.errors import ArtifactRefused, BadRecord
from domain.events import Prediction
from domain.topics import FEATURES_WITH_TARGET, PREDICTIONS, TRADES
from streaming import codec
from streaming.transport import Key
from tests.simulation.invariants import (
    ANSWER,
    DIGEST,
    EPOCH,
    EXACT,
    FINITE,
    FORWARD,
    LEARNED,
    LOADS,
    MATURED,
    ONCE,
    SERVED,
    WHOLE,
    Violation,
)
from tests.simulation.lakebook import LakeBook
from tests.simulation.oracle import Oracle


class Judge:
    """Sees every record, version and row, and keeps its own books."""

    def __init__(self, world) -> None:
        self._world, self.project = world, world.project
        self.oracles = {name: Oracle(self.project, world.market, name) for name in self.project.instruments}
        self.lake = LakeBook(self)
        self._names = self.project.instruments
        self._trades = {n: {v: i for i, v in enumerate(_trades(world, n))} for n in self._names}
        self._seen: dict[Key, int] = {}
        self._emptied: set[Key] = set()
        self._answered: dict[int, dict[str, bytes]] = {p: {} for p in range(len(self._names))}
        self._unproven: list[Prediction] = []
        self._cursor, self._commits = 0, 0
        self.versions: dict[tuple[str, int], object] = {}
        self.seen_at: dict[tuple[str, int], float] = {}
        self._payloads: dict[tuple[str, int], bytes] = {}
        self._lines: dict[tuple[str, int], object] = {}
        self._epochs: dict[tuple[str, int], str] = {}
        self._furthest = dict.fromkeys(self._names, (0, 0))
        self.damaged: set[tuple[str, int]] = set()
        self.intent: dict[str, tuple[str, int]] = {}
        self._serving: dict[str, dict[int, int]] = {}
        self.proven = 0

    def at(self, key: Key) -> int:
        """Return the place of a topic's newest record."""
        return self._seen.get(key, -1)

    def appended(self, key: Key, values: list[bytes]) -> None:
        """Look at records as they arrive at the broker."""
        topic, partition = key
        self._world.trace.records(key, values)
        if self._world.poisoning or topic not in {*self.oracles[self._names[0]].place, TRADES, PREDICTIONS}:
            return
        if topic == PREDICTIONS:
            for value in values:
                self._prediction(partition, value)
            return
        name = self._names[partition]
        places = self._trades[name] if topic == TRADES else self.oracles[name].place[topic]
        for value in values:
            place = places.get(value)
            if place is None:
                raise self._foreign(topic, name, value)
            last = self.at(key)
            if key in self._emptied:
                self._emptied.discard(key)
                last = place - 1
            if topic == TRADES and place <= last:
                raise Violation(ONCE, f"trade {value!r} again")
            if place > last + 1 and (topic == TRADES or self._times(topic, name)[place - 1] > self._safe(name)):
                raise Violation(WHOLE, f"{topic}/{partition} goes on at place {place} after {last}")
            if topic != TRADES and self._times(topic, name)[place] > self._world.market.now():
                raise Violation(MATURED, f"{topic}/{partition} has {value!r} before its time")
            self._seen[key] = max(last, place)

    def _times(self, topic: str, name: str) -> np.ndarray:
        return self.oracles[name].times[topic]

    def _safe(self, name: str) -> int:
        """Return the time up to which everything is landed and learned, and need not be made again."""
        marks = self.lake.marks(self._names.index(name))
        return min(self._furthest[name][1], *marks)

    def _foreign(self, topic: str, name: str, value: bytes) -> Violation:
        if topic == FEATURES_WITH_TARGET:
            fields = msgspec.json.decode(value)
            if fields["ts_available"] != fields["ts_event"] + self.project.horizon:
                return Violation(MATURED, f"an example of {fields['ts_event']} at {fields['ts_available']}")
        return Violation(EXACT, f"{topic} of {name} has {value[:200]!r}")

    def lost(self, key: Key, *, whole: bool) -> None:
        """Note that a log lost its end, or all of it."""
        topic, partition = key
        memory = self._world.broker
        if topic == PREDICTIONS:
            kept = memory.logs.get(key, [])
            self._answered[partition] = {p.prediction_id: _bare(p) for p in map(_decoded, kept) if p is not None}
        elif not whole and topic in {*self.oracles[self._names[0]].place, TRADES}:
            name = self._names[partition]
            places = self._trades[name] if topic == TRADES else self.oracles[name].place[topic]
            self._seen[key] = max((places[v] for v in memory.logs[key] if v in places), default=-1)
        elif topic == TRADES:
            self._emptied.add(key)

    def step(self, process) -> None:
        """Check what the step of a process has left behind."""
        if self._world.ledger.commits != self._commits:
            self._commits = self._world.ledger.commits
            self._look_at_versions()
        if self._unproven:
            self._prove()
        if process is not None and process.kind == "predictor" and process.stage is not None:
            self._look_at_serving(process)
        self.lake.step()

    def _look_at_versions(self) -> None:
        for version in self._world.registry.since(self._cursor):
            self._cursor = version.id
            name, number = version.line, version.number
            self.versions[name, number] = version
            self.seen_at[name, number] = self._world.clock.now
            if version.kind == "update":
                self._publisher(version)
            oracle = self.oracles[name]
            if version.watermark > self._world.market.now():
                raise Violation(MATURED, f"version {number} has a watermark ahead of the market")
            if version.n_learned != oracle.learned(version.watermark):
                expected = oracle.learned(version.watermark)
                raise Violation(LEARNED, f"version {number} learned {version.n_learned} labels of {expected}")
            if version.digest != oracle.digest(version.watermark):
                raise Violation(DIGEST, f"version {number} of {name} at {version.watermark}")
            if (version.n_learned, version.watermark) < self._furthest[name]:
                raise Violation(FORWARD, f"version {number} at {version.n_learned} after {self._furthest[name]}")
            self._furthest[name] = (version.n_learned, version.watermark)
            try:
                self._payloads[name, number] = self._world.registry.load(version)
            except ArtifactRefused as error:
                raise Violation(LOADS, str(error)) from error
            self._world.trace.note("version", name, number, version.n_learned, version.digest)

    def _publisher(self, version) -> None:
        incarnation, epoch = self.intent[version.line]
        newest = self._world.newest_epoch(version.line)
        if epoch != newest:
            raise Violation(EPOCH, f"version {version.number} by {incarnation}, epoch {epoch} of {newest}")
        if self._epochs.setdefault((version.line, epoch), incarnation) != incarnation:
            raise Violation(EPOCH, f"epoch {epoch} is {incarnation}'s and {self._epochs[version.line, epoch]}'s")

    def spoiled(self, name: str, number: int) -> None:
        """Note that a version was damaged on disk: what it alone knew may be published again."""
        self.damaged.add((name, number))
        good = [v for (line, n), v in self.versions.items() if line == name and (line, n) not in self.damaged]
        self._furthest[name] = max((v.n_learned, v.watermark) for v in good)

    def _look_at_serving(self, process) -> None:
        known = self._serving.setdefault(process.incarnation, {})
        for partition, served in process.stage._served.items():
            if known.get(partition) == served.number:
                continue
            known[partition] = served.number
            name = self._names[partition]
            if (name, served.number) in self.damaged:
                raise Violation(SERVED, f"version {served.number} of {name} is damaged and serves")

    def _prediction(self, partition: int, value: bytes) -> None:
        p = _decoded(value)
        if p is None or not all(map(math.isfinite, (p.price_change, p.direction, p.volatility))):
            raise Violation(FINITE, repr(value))
        name = self._names[partition]
        if p.ts_event not in self.oracles[name].x or p.instrument != name:
            raise Violation(ANSWER, f"{p.prediction_id} answers no vector")
        before = self._answered[partition].setdefault(p.prediction_id, _bare(p))
        if before != _bare(p):
            raise Violation(ANSWER, f"{p.prediction_id} has two answers")
        self._unproven.append(p)

    def _prove(self) -> None:
        """Ask the named version itself; what is still to be seen of versions was seen just before."""
        fresh, self._unproven = self._unproven, []
        for which in sorted({(p.instrument, p.model_version) for p in fresh}):
            some = [p for p in fresh if (p.instrument, p.model_version) == which]
            version = self.versions.get(which)
            if version is None:
                raise Violation(ANSWER, f"{some[0].prediction_id} is of version {which[1]}, which does not exist")
            if which not in self._lines:
                self._lines[which] = Checkpoint.from_bytes(self._payloads[which], self._world.key).line
            x = np.array([self.oracles[which[0]].x[p.ts_event] for p in some])
            for p, expected in zip(some, self._lines[which].predict(x).tolist(), strict=True):
                said = (p.price_change, p.direction, p.volatility, p.n_learned, p.model_watermark)
                if said != (*expected, version.n_learned, version.watermark):
                    raise Violation(ANSWER, f"{p.prediction_id} is not what version {which[1]} says of its vector")
        self.proven += len(fresh)

    def finish(self, lines: dict[str, object]) -> None:
        """Check the end: the model is the undisturbed one, and every row is there once."""
        for name, line in lines.items():
            oracle = self.oracles[name]
            if (line.watermark, line.n_learned) != (oracle.last, oracle.learned(oracle.last)):
                raise Violation(LEARNED, f"{name} ends with {line.n_learned} of {oracle.learned(oracle.last)} labels")
            if line.digest() != oracle.digest(oracle.last):
                raise Violation(DIGEST, f"{name} at the end")
        self.lake.compare(self._world.excused)

    def answered_all(self) -> bool:
        """Return whether the newest vector of each line has its answer on the topic."""
        suffix = f"/{self.project.horizon_s}"
        return all(
            f"{name}/{self.oracles[name].last}{suffix}" in self._answered[p] for p, name in enumerate(self._names)
        )

    def undrained(self) -> list[str]:
        """Return which topics do not have everything yet."""
        missing = []
        for partition, name in enumerate(self._names):
            for topic, records in self.oracles[name].records.items():
                if self.at((topic, partition)) < len(records) - 1:
                    missing.append(f"{topic}/{partition}")
        return missing


def _trades(world, name: str) -> list[bytes]:
    if world.market.kind == "bars":
        return []
    return codec.encode_trades(world.market.live(name))


def _decoded(value: bytes) -> Prediction | None:
    try:
        return codec.prediction(value)
    except BadRecord:
        return None


def _bare(p: Prediction) -> bytes:
    """Return a prediction without when it was made."""
    return codec.encode(msgspec.structs.replace(p, predicted_at=0))
