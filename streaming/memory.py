"""A broker in this process's memory: the transport for tests, simulations and kill loops, shipped with the product.

Everything sent is acknowledged at once, in order, and stays until the process ends.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping

from domain.errors import Unavailable
from streaming.transport import Key, Records

BATCH = 2_000


class Memory:
    """Topics as lists of values; see ``Transport``.

    Parameters
    ----------
    name_log : makes the identity of a new log; a simulation brings names that are the same in every run

    Attributes
    ----------
    logs : each partition's values, from the first offset that it still has
    starts : that first offset, where it is not 0
    """

    def __init__(self, name_log: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._name_log = name_log
        self.logs: dict[Key, list[bytes]] = {}
        self.starts: dict[Key, int] = {}
        self._identities: dict[str, str] = {}

    def reader(self, service: str, start: Mapping[Key, int]) -> MemoryReader:  # noqa: ARG002 - nobody asks who reads
        """See ``Transport``."""
        return MemoryReader(self, start)

    def writer(self, linger_ms: int = 5) -> MemoryWriter:  # noqa: ARG002 - nothing waits here
        """See ``Transport``."""
        return MemoryWriter(self)

    def ends(self, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
        """See ``Transport``."""
        return {key: (self.starts.get(key, 0), self.end(key)) for key in wanted}

    def end(self, key: Key) -> int:
        """Return the next offset of a partition."""
        return self.starts.get(key, 0) + len(self.logs.get(key, ()))

    def identities(self, topics: Iterable[str]) -> dict[str, str]:
        """See ``Transport``."""
        wanted = list(topics)
        for topic in wanted:
            if topic not in self._identities:
                self._identities[topic] = self._name_log()
        return {topic: self._identities[topic] for topic in wanted}

    def make_anew(self, topic: str) -> None:
        """Delete a topic and make it again, empty, as an operator may."""
        self._identities[topic] = self._name_log()
        for key in [key for key in self.logs if key[0] == topic]:
            del self.logs[key]
            self.starts.pop(key, None)

    def expire(self, key: Key, before: int) -> None:
        """Drop what is older than an offset, as retention does."""
        gone = max(0, before - self.starts.get(key, 0))
        self.starts[key] = self.starts.get(key, 0) + min(gone, len(self.logs.get(key, ())))
        self.logs[key] = self.logs.get(key, [])[gone:]

    def append(self, key: Key, values: Iterable[bytes]) -> None:
        """Add records at the end."""
        self.logs.setdefault(key, []).extend(values)


class MemoryReader:
    """See ``streaming.transport.Reader``; it never waits."""

    def __init__(self, memory: Memory, start: Mapping[Key, int]) -> None:
        self._memory = memory
        self.position = dict(start)

    def poll(self, timeout_s: float) -> list[Records]:  # noqa: ARG002
        """Return what has arrived."""
        found = []
        for key, offset in self.position.items():
            low, end = self._memory.starts.get(key, 0), self._memory.end(key)
            if not low <= offset <= end:
                raise Unavailable(f"{key[0]}/{key[1]} has no offset {offset}; the next start resumes by watermark")
            values = self._memory.logs.get(key, [])[offset - low : offset - low + BATCH]
            if values:
                found.append(Records(*key, list(range(offset, offset + len(values))), values))
                self.position[key] = offset + len(values)
        return found

    def lag(self) -> int | None:
        """Return records between our position and the end of the logs."""
        return sum(max(0, self._memory.end(key) - offset) for key, offset in self.position.items())

    def mirror(self) -> None:
        """Tell nobody."""

    def close(self) -> None:
        """Leave."""


class MemoryWriter:
    """See ``streaming.transport.Writer``."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def send(self, topic: str, partition: int, key: str, values: Iterable[bytes]) -> None:  # noqa: ARG002
        """Append at once."""
        self._memory.append((topic, partition), values)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Nothing waits."""
