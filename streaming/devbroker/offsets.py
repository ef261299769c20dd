"""Committed offsets: how far each group has read, in a small log of their own."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from streaming.devbroker import files
from streaming.devbroker.log import Fsync

logger = structlog.get_logger(__name__)

COMPACT_BYTES = 1 << 20
"""The log is rewritten with what is in force when it is this large and four times larger than that would be."""

MAX_BYTES = 4 << 20
"""What is in force may be so large, about: rewriting it keeps everybody waiting."""

_ENTRY_BYTES = 64

_FRAME = struct.Struct(">II")
"""Length and CRC-32 of one commit; a commit is whole or it never was."""


class Committed(NamedTuple):
    """One committed offset with the words its committer gave it."""

    offset: int
    leader_epoch: int
    metadata: str


Key = tuple[str, int]
"""Topic and partition."""


class CommittedOffsets:
    """Committed offsets by group and partition.

    Parameters
    ----------
    path
        Of the log; read, cut at its torn tail and compacted here.
    fsync
        As of a `PartitionLog`.
    """

    def __init__(self, path: Path, fsync: Fsync) -> None:
        self._path = path
        self._fsync = fsync
        self._dirty = False
        self._groups: dict[str, dict[Key, Committed]] = {}
        self._held = 0  # bytes in force, about
        if path.exists():
            self._replay()
        self._compact()

    def _replay(self) -> None:
        data = self._path.read_bytes()
        at = 0
        while at + _FRAME.size <= len(data):
            length, crc = _FRAME.unpack_from(data, at)
            body = data[at + _FRAME.size : at + _FRAME.size + length]
            if not length or len(body) < length or zlib.crc32(body) != crc:  # zeros pass the checksum
                break
            self._apply(*json.loads(body))
            at += _FRAME.size + length
        if at < len(data):
            logger.warning("torn tail cut off", file=str(self._path), bytes=len(data) - at)

    def _apply(self, group: str, entries: Iterable[tuple[str, int, int, int, str]]) -> None:
        known = self._groups.setdefault(group, {})
        for topic, partition, offset, leader_epoch, metadata in entries:
            old = known.pop((topic, partition), None)
            if old is not None:
                self._held -= _ENTRY_BYTES + len(group) + len(topic) + len(old.metadata)
            if offset >= 0:
                known[topic, partition] = Committed(offset, leader_epoch, metadata)
                self._held += _ENTRY_BYTES + len(group) + len(topic) + len(metadata)
        if not known:
            del self._groups[group]

    def _compact(self) -> None:
        content = b"".join(
            _framed(group, [(*key, *committed) for key, committed in known.items()])
            for group, known in self._groups.items()
        )
        files.replace(self._path, content)
        self._size = self._live = len(content)

    @property
    def full(self) -> bool:
        """Whether there is as much as may be: then only what is there is committed again."""
        return self._held > MAX_BYTES

    @property
    def groups(self) -> list[str]:
        """Every group that has committed something."""
        return list(self._groups)

    def of(self, group: str) -> Mapping[Key, Committed]:
        """Return what a group has committed."""
        return self._groups.get(group, {})

    def commit(self, group: str, offsets: Mapping[Key, Committed]) -> None:
        """Note offsets of a group, all of them or, when the process dies meanwhile, none."""
        if offsets:
            self._append(group, [(*key, *committed) for key, committed in offsets.items()])

    def forget(self, group: str) -> None:
        """Forget a group."""
        self._append(group, [(*key, -1, -1, "") for key in self.of(group)])

    def forget_topics_but(self, topics: Iterable[str]) -> None:
        """Forget what was committed for topics that are no more."""
        kept = set(topics)
        for group in self.groups:
            gone = [(*key, -1, -1, "") for key in self.of(group) if key[0] not in kept]
            if gone:
                self._append(group, gone)

    def _append(self, group: str, entries: list[tuple[str, int, int, int, str]]) -> None:
        frame = _framed(group, entries)
        with self._path.open("ab", buffering=0) as file:
            if file.write(frame) != len(frame):
                file.truncate(self._size)
                raise OSError(errno.ENOSPC, "the disk took only a part of a commit", str(self._path))
            if self._fsync == "always":
                os.fsync(file.fileno())
        self._dirty = True
        self._apply(group, entries)
        self._size += len(frame)
        if self._size > max(COMPACT_BYTES, 4 * self._live):
            self._compact()

    def sync(self) -> None:
        """Put every commit so far on the disk itself."""
        if self._dirty:
            self._dirty = False
            with self._path.open("rb") as file:
                os.fsync(file.fileno())


def _framed(group: str, entries: list[tuple[str, int, int, int, str]]) -> bytes:
    body = json.dumps([group, entries]).encode()
    return _FRAME.pack(len(body), zlib.crc32(body)) + body
