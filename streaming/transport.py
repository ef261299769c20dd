"""The port between the services and their broker: so small that a test double is a page, and nothing else knows Kafka.

Readers are assigned, never balanced: the checkpoint of whoever reads is the only truth about offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from domain.errors import BadState, Unavailable
from streaming.clock import Clock

T = TypeVar("T")

Key = tuple[str, int]
"""Topic and partition."""

PATIENCE_S = 10.0
"""How long a record that the log says it has is waited for."""

LOOK_S = 10.0
"""Seconds between two looks at the identities of the logs: a topic is made anew by a person, not by the minute."""


@dataclass(frozen=True)
class Records:
    """Consecutive records of one partition, as they were read."""

    topic: str
    partition: int
    offsets: list[int]
    values: list[bytes]


class Reader(Protocol):
    """Reads assigned partitions from explicit offsets.

    Attributes
    ----------
    position : the next offset of each partition, after what ``poll`` has returned
    """

    position: dict[Key, int]

    def poll(self, timeout_s: float) -> list[Records]:
        """Return what has arrived, by partition, waiting at most ``timeout_s`` for the first record.

        Raises
        ------
        Unavailable
            When waiting cannot help, such as for an offset that the log does not have.
        """
        ...

    def lag(self) -> int | None:
        """Return records between our position and the end of the logs, None while an end is unknown."""
        ...

    def mirror(self) -> None:
        """Tell lag tools how far we are; nothing here reads it back."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class Writer(Protocol):
    """Writes records in order; a delivery that fails for good raises at the next call."""

    def send(self, topic: str, partition: int, key: str, values: Iterable[bytes]) -> None:
        """Queue records; waits while the queue is full."""
        ...

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every queued record is acknowledged.

        Raises
        ------
        Unavailable
            When the broker did not acknowledge in time.
        """
        ...


class Transport(Protocol):
    """A broker, as the services see it."""

    def reader(self, service: str, start: Mapping[Key, int]) -> Reader:
        """Return a reader of these partitions from these offsets."""
        ...

    def writer(self, linger_ms: int = 5) -> Writer:
        """Return a writer that waits so long for more before it sends."""
        ...

    def ends(self, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
        """Return first and next offset of each partition."""
        ...

    def identities(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the identity of each topic's log: a topic made anew under its name has another."""
        ...


class Logs:
    """The logs that a service's offsets belong to: an offset means nothing in another log of the same name.

    Attributes
    ----------
    identities : topic -> identity, as it was when the service opened
    """

    def __init__(self, transport: Transport, clock: Clock, topics: Iterable[str], partitions: int) -> None:
        self._transport, self._clock = transport, clock
        self.identities = transport.identities(topics)
        self._keys = [(topic, p) for topic in self.identities for p in range(partitions)]
        self._looked = clock.monotonic()
        self.measure()

    def measure(self) -> None:
        """Look where the logs begin and end by now."""
        self._ends = self._transport.ends(self._keys)

    def low(self, key: Key) -> int:
        """Return the first offset that the log still has."""
        return self._ends[key][0]

    def end(self, key: Key) -> int:
        """Return the next offset of the log."""
        return self._ends[key][1]

    def resume(self, key: Key, offset: int | None, log: str | None, is_old: Callable[[bytes], bool]) -> tuple[int, str]:
        """Return where to read on from, and why not from the recorded offset (empty when from there).

        Parameters
        ----------
        offset, log : what was recorded, None where nothing was
        is_old : whether a record had been handled when the offset was recorded; asked of the one just before it

        Notes
        -----
        Where the offset cannot be trusted the whole log is read: whoever reads drops what is not newer than its
        watermark. The record before the offset is looked at because a log that lost its end with the power, and has
        grown since, keeps its identity.
        """
        low, high = self._ends[key]
        topic = key[0]
        if offset is None:
            return low, ""
        if log != self.identities[topic]:
            return low, "the topic was made anew"
        if offset > high:
            return low, f"the log ends at {high}, before {offset}"
        if offset < low:
            return low, f"records {offset} to {low} have expired"
        if offset > low and not is_old(_value_at(self._transport, self._clock, key, offset - 1)):
            return low, f"the record before {offset} is not the one that was read there"
        return offset, ""

    def has_lost(self, key: Key, offset: int) -> bool:
        """Return whether nothing before this offset is there any more, though once it was."""
        return offset <= self.low(key) and self.low(key) > 0

    def check(self, *, surely: bool = False) -> None:
        """Stop when a topic was made anew since the service opened; looks now and then, call it often.

        Parameters
        ----------
        surely : look now: what was read so far is about to be made durable, with an offset of this log

        Raises
        ------
        BadState
            Then: offsets that are held here belong to the log that is gone.
        """
        now = self._clock.monotonic()
        if not surely and now - self._looked < LOOK_S:
            return
        self._looked = now
        found = self._transport.identities(self.identities)
        for topic, identity in self.identities.items():
            if found[topic] != identity:
                raise BadState(f"topic {topic} was made anew; the next start of this service resumes by watermark")


def tails(transport: Transport, clock: Clock, key: Key) -> Iterator[list[bytes]]:
    """Yield the values at the end of a partition, ever more of them, until all were."""
    low, high = transport.ends([key])[key]
    span = 256
    start = high
    while start > low:
        start, span = max(low, high - span), span * 8
        yield values_between(transport, clock, key, start, high)


def find(transport: Transport, clock: Clock, key: Key, low: int, is_wanted: Callable[[bytes], bool]) -> int:
    """Return the first offset whose record is wanted, where all later ones are wanted too (bisection)."""
    high = transport.ends([key])[key][1]
    while low < high:
        middle = (low + high) // 2
        if is_wanted(_value_at(transport, clock, key, middle)):
            high = middle
        else:
            low = middle + 1
    return low


def values_between(transport: Transport, clock: Clock, key: Key, start: int, high: int) -> list[bytes]:
    """Return the values of a partition from ``start`` up to, not including, ``high``."""
    reader = transport.reader("tail", {key: start})
    values: list[bytes] = []
    try:
        until = clock.monotonic() + PATIENCE_S
        while reader.position[key] < high:
            if clock.monotonic() > until:
                raise Unavailable(f"cannot read the end of {key[0]}/{key[1]}; is the broker running?")
            for records in reader.poll(0.5):
                values += [v for v, offset in zip(records.values, records.offsets, strict=True) if offset < high]
        return values
    finally:
        reader.close()


def _value_at(transport: Transport, clock: Clock, key: Key, offset: int) -> bytes:
    reader = transport.reader("seek", {key: offset})
    try:
        until = clock.monotonic() + PATIENCE_S
        while clock.monotonic() < until:
            for records in reader.poll(0.5):
                return records.values[0]
        raise Unavailable(f"cannot read {key[0]}/{key[1]} at {offset}; is the broker running?")
    finally:
        reader.close()
