"""The broker of the simulation: ``streaming.memory`` with delays, deaths, lost acknowledgements and lost ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from domain.errors import Unavailable
from streaming.memory import Memory, MemoryReader
from streaming.transport import Key, Records
from tests.simulation.faults import Fuses, Hands

PROMPT = {"tail", "seek"}
"""Readers that look for one thing and wait for it."""


class Broker(Memory):
    """Records are kept in order by partition; between partitions nothing is promised.

    Attributes
    ----------
    calm : nothing is held back or lost any more
    hung_until : when it answers again, virtual seconds
    losing_acks : how many flushes will not hear that they succeeded
    reached : (log, topic, partition) -> the furthest end that it ever had
    """

    def __init__(self, clock: Hands, fuses: Fuses, rng: random.Random, told: Callable[[Key, list[bytes]], None]):
        self._named = 0
        super().__init__(self._name)
        self.clock, self.fuses, self.rng, self._told = clock, fuses, rng, told
        self.calm, self.hung_until, self.losing_acks = False, 0.0, 0
        self.writers: dict[str, list[FragileWriter]] = {}
        self._synced: dict[Key, int] = {}
        self.reached: dict[tuple[str, str, int], int] = {}

    def _name(self) -> str:
        self._named += 1
        return f"log-{self._named}"

    def reader(self, service: str, start: Mapping[Key, int]) -> MemoryReader:
        """See ``Transport``."""
        self._answer()
        return MemoryReader(self, start) if service in PROMPT else SlowReader(self, start)

    def writer(self, linger_ms: int = 5) -> FragileWriter:
        """See ``Transport``."""
        writer = FragileWriter(self)
        self.writers.setdefault(self.fuses.running, []).append(writer)
        return writer

    def ends(self, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
        """See ``Transport``."""
        self._answer()
        return super().ends(wanted)

    def identities(self, topics: Iterable[str]) -> dict[str, str]:
        """See ``Transport``."""
        self._answer()
        return super().identities(topics)

    def append(self, key: Key, values: Iterable[bytes]) -> None:
        """Add records at the end, before the eyes of the judge."""
        values = list(values)
        super().append(key, values)
        log = (self.identities_of(key[0]), *key)
        self.reached[log] = max(self.reached.get(log, 0), self.end(key))
        self._told(key, values)

    def identities_of(self, topic: str) -> str:
        """Return a log's name, also to who may ask while the broker hangs."""
        return super().identities((topic,))[topic]

    def sync(self) -> None:
        """Put all that was acknowledged on the disk."""
        self._synced = {key: self.end(key) for key in self.logs}

    def lose_unsynced(self) -> list[Key]:
        """Cut each log somewhere behind what is on the disk, as a power loss does; return which."""
        cut = []
        for key in sorted(self.logs):
            low = max(self._synced.get(key, 0), self.starts.get(key, 0))
            end = self.rng.randint(min(low, self.end(key)), self.end(key))
            if end < self.end(key):
                del self.logs[key][end - self.starts.get(key, 0) :]
                cut.append(key)
        return cut

    def bury(self, process: str) -> None:
        """A process died: of each partition some first part of what it had not flushed still arrives."""
        for writer in self.writers.pop(process, []):
            writer.scatter(whole=False)

    def hung(self) -> bool:
        """Whether it does not answer."""
        return not self.calm and self.clock.now < self.hung_until

    def _answer(self) -> None:
        self.fuses.point()
        if self.hung():
            raise Unavailable("the broker does not answer")


class SlowReader(MemoryReader):
    """Brings some of what has arrived, of some partitions, in no order between them."""

    def __init__(self, broker: Broker, start: Mapping[Key, int]) -> None:
        super().__init__(broker, start)
        self._broker = broker

    def poll(self, timeout_s: float) -> list[Records]:
        """See ``Reader``."""
        broker = self._broker
        broker.fuses.point()
        if broker.hung():
            return []
        found = super().poll(timeout_s)
        if broker.calm:
            return found
        kept = []
        for records in found:
            key = records.topic, records.partition
            n = min(len(records.offsets), broker.rng.choice((0, 1, 5, 2_000, 2_000, 2_000)))
            self.position[key] = records.offsets[0] + n
            if n:
                kept.append(Records(*key, records.offsets[:n], records.values[:n]))
        broker.rng.shuffle(kept)
        return kept


class FragileWriter:
    """Queues what is sent; it arrives bit by bit, at a flush, or never."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._queue: dict[Key, list[bytes]] = {}

    def send(self, topic: str, partition: int, key: str, values: Iterable[bytes]) -> None:
        """See ``Writer``."""
        self._broker.fuses.point()
        self._queue.setdefault((topic, partition), []).extend(values)
        if self._broker.rng.random() < 0.3:
            self.drip()

    def drip(self) -> None:
        """Deliver what the thread of the client would have by now."""
        if not self._broker.hung():
            self.scatter(whole=self._broker.rng.random() < 0.5)

    def scatter(self, *, whole: bool) -> None:
        """Deliver all, or of each partition a first part, in no order between partitions."""
        keys = sorted(self._queue)
        self._broker.rng.shuffle(keys)
        for key in keys:
            queued = self._queue.pop(key)
            n = len(queued) if whole else self._broker.rng.randint(0, len(queued))
            if n:
                self._broker.append(key, queued[:n])
            if queued[n:]:
                self._queue[key] = queued[n:]

    def flush(self, timeout_s: float = 30.0) -> None:
        """See ``Writer``."""
        broker = self._broker
        broker.fuses.point()
        if broker.hung():
            raise Unavailable("the broker did not acknowledge in time")
        self.scatter(whole=True)
        broker.fuses.point()
        if broker.losing_acks and not broker.calm:
            broker.losing_acks -= 1
            raise Unavailable("the broker did not acknowledge in time, though it has the records")
