"""The broker as a value: what it holds, and what happens in it as time goes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from streaming.devbroker.groups import Group
from streaming.devbroker.log import Fsync, PartitionLog
from streaming.devbroker.offsets import CommittedOffsets
from streaming.devbroker.requests import Request
from streaming.devbroker.topics import Topics
from streaming.devbroker.wire import Call

NODE = 1
"""The id of the only node there is."""

RETENTION_ROUND_S = 5.0
"""Old segments are looked for this often; Kafka looks every five minutes, on a laptop the disk is smaller."""


class Broker:
    """Topics, groups and their offsets, opened from a data directory.

    Parameters
    ----------
    data
        The data directory; its lock is held by the caller.
    fsync
        As of a `PartitionLog`.
    """

    def __init__(self, data: Path, fsync: Fsync) -> None:
        self.topics = Topics(data, fsync)
        self.offsets = CommittedOffsets(data / "offsets.log", fsync)
        self.offsets.forget_topics_but(topic.name for topic in self.topics)
        self.groups: dict[str, Group] = {}
        self.host, self.port = "", 0
        self.connections = 0
        self.bytes_in = self.bytes_out = 0
        self._fsync = fsync
        self._retention_due = 0.0

    def group(self, name: str) -> Group:
        """Return a group, empty when nobody has joined it yet."""
        return self.groups.setdefault(name, Group())

    def group_names(self) -> list[str]:
        """Every group with members or committed offsets."""
        return sorted({*self.groups, *self.offsets.groups})

    def delete_topic(self, name: str) -> None:
        """Delete a topic and what was committed for it."""
        self.topics.delete(name)
        self.offsets.forget_topics_but(topic.name for topic in self.topics)

    def tick(self, now: float) -> None:
        """Let time pass (seconds of the event loop): silent members go, old segments too."""
        for group in self.groups.values():
            group.tick(now)
        if now >= self._retention_due:
            self._retention_due = now + RETENTION_ROUND_S
            for log in self.topics.logs.values():
                log.expire(time.time_ns() // 1_000_000)
            left = [name for name, group in self.groups.items() if group.idle and not self.offsets.of(name)]
            for name in left:
                del self.groups[name]

    async def sync(self) -> None:
        """Put everything on the disk itself, when that is this broker's policy; clients are served meanwhile."""
        if self._fsync == "interval":
            await asyncio.to_thread(self._sync, list(self.topics.logs.values()))

    def _sync(self, logs: Iterable[PartitionLog]) -> None:
        for log in logs:
            log.sync()
        self.offsets.sync()

    def stats(self) -> dict[str, object]:
        """Return what a heartbeat may carry: connections, topics, partitions, groups and bytes (on disk, in, out)."""
        return {
            "connections": self.connections,
            "topics": len(self.topics),
            "partitions": len(self.topics.logs),
            "groups": len(self.groups),
            "bytes": sum(log.size for log in self.topics.logs.values()),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }

    def close(self) -> None:
        """Close every log, on the disk itself when that is this broker's policy."""
        if self._fsync == "interval":
            self._sync(self.topics.logs.values())
        self.topics.close()


class Ask(NamedTuple):
    """One request, decoded, on its way to who answers it."""

    broker: Broker
    call: Call
    request: Request
