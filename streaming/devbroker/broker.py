"""The broker as a value: what it holds, and what happens in it as time goes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from kio.schema.errors import ErrorCode

from streaming.devbroker.groups import Group
from streaming.devbroker.limits import MAX_PARTITIONS_IN_ALL
from streaming.devbroker.log import Fsync, PartitionLog
from streaming.devbroker.members import Joined, Joining
from streaming.devbroker.offsets import CommittedOffsets
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.requests import Request
from streaming.devbroker.topics import Topics
from streaming.devbroker.wire import Call
from streaming.devbroker.worker import Worker

NODE = 1
"""The id of the only node there is."""

MAX_MEMBERS, MAX_MEMBER_BYTES = 500, 8 << 20
"""Members of all groups together, and what they may have sent about themselves."""

Result = TypeVar("Result")

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
    max_partitions
        As of `Topics`.
    """

    def __init__(self, data: Path, fsync: Fsync, max_partitions: int = MAX_PARTITIONS_IN_ALL) -> None:
        self.worker = Worker()
        self.topics = Topics(data, fsync, max_partitions)
        self.offsets = CommittedOffsets(data / "offsets.log", fsync)
        self.offsets.forget_topics_but(topic.name for topic in self.topics)
        self.groups: dict[str, Group] = {}
        self.host, self.port = "", 0
        self.connections = 0
        self.bytes_in = self.bytes_out = 0
        self._fsync = fsync
        self._changes = asyncio.Lock()  # of the topics: one after the other
        self._retention_due = 0.0

    def group(self, name: str) -> Group:
        """Return a group; an empty one, not kept, when nobody is in it or about to be."""
        return self.groups.get(name) or Group()

    def join(self, name: str, joining: Joining, now: float) -> asyncio.Future[Joined]:
        """Let a member join a group, as `Group.join`.

        Raises
        ------
        Refusal
            As `Group.join`; GROUP_MAX_SIZE_REACHED when all groups together hold as much as they may.
        """
        group = self.group(name)
        if not group.knows(joining):
            held = [other.held for other in self.groups.values()]
            if sum(n for n, _ in held) >= MAX_MEMBERS or sum(size for _, size in held) > MAX_MEMBER_BYTES:
                raise Refusal(ErrorCode.group_max_size_reached, f"{len(held)} groups hold what they may")
        try:
            return group.join(joining, now)
        finally:
            if not group.idle:
                self.groups[name] = group

    def group_names(self) -> set[str]:
        """Every group with members or committed offsets."""
        return {*self.groups, *self.offsets.groups}

    async def change_topics(self, change: Callable[[], Result]) -> Result:
        """Return what a change of the topics returns: it takes its time on the disk, clients are served meanwhile."""
        async with self._changes:
            return await self.worker.run(change)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and what was committed for it, also when the client that asked has gone meanwhile.

        Raises
        ------
        Refusal
            As `Topics.delete`.
        """
        await asyncio.shield(self._delete_topic(name))

    async def _delete_topic(self, name: str) -> None:
        async with self._changes:
            topic = await self.worker.run(self.topics.delete, name)
            self.topics.close_logs(topic)
            self.offsets.forget_topics_but(topic.name for topic in self.topics)
            await self.worker.run(self.topics.remove_logs, topic)

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
        self.worker.close()
        if self._fsync == "interval":
            self._sync(self.topics.logs.values())
        self.topics.close()


class Ask(NamedTuple):
    """One request, decoded, on its way to who answers it."""

    broker: Broker
    call: Call
    request: Request
