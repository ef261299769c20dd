"""One segment: a file of record batches end to end, with a sparse index of it in memory."""

from __future__ import annotations

import errno
import json
import mmap
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from streaming.devbroker.batches import HEADER_SIZE, Header, header_at, place, whole
from streaming.devbroker.producers import Snapshot

INDEX_INTERVAL = 4096
"""Bytes of log an index entry stands for (Kafka's ``index.interval.bytes``): 24 bytes of memory for 4 KiB of log."""


class Extent(NamedTuple):
    """Whole batches in a row within one segment: what a fetch sends."""

    position: int
    length: int


class Segment:
    """A file of record batches end to end, named by the offset of its first record.

    Only the newest segment of a log is open for appending; the older ones are sealed and opened to be read.

    Parameters
    ----------
    directory
        Of the partition.
    base_offset
        Of the first record, now or in future.
    """

    def __init__(self, directory: Path, base_offset: int) -> None:
        self.path = directory / f"{base_offset:020d}.log"
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.size = 0
        self.first_timestamp = -1
        self.max_timestamp = -1
        self._fd = -1
        # An entry a block: offset and position of its first batch, newest time of everything up to the block's end.
        self._offsets, self._positions, self._timestamps = array("q"), array("q"), array("q")

    @property
    def _sealed_path(self) -> Path:
        return self.path.with_suffix(".sealed")

    @property
    def newest_ms(self) -> int:
        """The newest time in it; that of the file where the records have none."""
        return self.max_timestamp if self.max_timestamp >= 0 else int(self.path.stat().st_mtime * 1000)

    def open(self) -> None:
        """Open for appending."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, header: Header, batch: memoryview) -> None:
        """Write one batch at the end, its offset being ``next_offset``.

        Raises
        ------
        OSError
            When it could not be written whole; what was written of it has been cut off again.
        """
        head = place(self.next_offset, header)
        try:
            written = os.writev(self._fd, (head, batch[len(head) :]))
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        if written != header.size:
            os.ftruncate(self._fd, self.size)
            raise OSError(errno.ENOSPC, "the disk took only a part of a batch", str(self.path))
        self._note(header._replace(base_offset=self.next_offset))

    def recover(self, found: Callable[[Header], None]) -> int:
        """Read the file from its start, check every batch, cut off a torn tail.

        Parameters
        ----------
        found
            Told every whole batch, in order.

        Returns
        -------
        int
            Bytes cut off.
        """
        end = self.path.stat().st_size
        if end:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                view = memoryview(data)
                while (header := whole(view, self.size, end)) and header.base_offset == self.next_offset:
                    self._note(header)
                    found(header)
                view.release()
        if end > self.size:
            os.truncate(self.path, self.size)
        return end - self.size

    def _note(self, header: Header) -> None:
        if not self._positions or self.size - self._positions[-1] >= INDEX_INTERVAL:
            self._offsets.append(header.base_offset)
            self._positions.append(self.size)
            self._timestamps.append(self.max_timestamp)
        if self.first_timestamp < 0:
            self.first_timestamp = header.max_timestamp
        self.max_timestamp = self._timestamps[-1] = max(self.max_timestamp, header.max_timestamp)
        self.size += header.size
        self.next_offset = header.next_offset

    def extent(self, offset: int, max_bytes: int, *, at_least_one: bool) -> Extent:
        """Return where the batches from the one holding an offset are, as many as fit.

        Parameters
        ----------
        offset
            ``base_offset <= offset < next_offset``.
        at_least_one
            Whether a first batch above ``max_bytes`` is taken whole all the same.

        Notes
        -----
        The end is taken from the index, so up to 4 KiB less than would fit are returned, but never half a batch.
        """
        block = bisect_right(self._offsets, offset) - 1
        position, header = next(found for found in self._headers(block) if offset < found[1].next_offset)
        limit = position + max_bytes
        if limit >= self.size:
            return Extent(position, self.size - position)
        end = self._positions[bisect_right(self._positions, limit) - 1]
        if end <= position:
            end = position + header.size
            if end > limit and not at_least_one:
                return Extent(position, 0)
        return Extent(position, end - position)

    def read(self, extent: Extent) -> bytes:
        """Return the bytes of an extent."""
        with self._file() as fd:
            return os.pread(fd, extent.length, extent.position)

    def batch_at_time(self, timestamp: int) -> tuple[bytes, Header] | None:
        """Return the first batch with a record at or after a time (ms), or None."""
        block = bisect_left(self._timestamps, timestamp)
        if block == len(self._timestamps):
            return None
        for position, header in self._headers(block):
            if header.max_timestamp >= timestamp:
                return self.read(Extent(position, header.size)), header
        return None

    def _headers(self, block: int) -> Iterator[tuple[int, Header]]:
        """Yield position and header of the batches that start in a block: all within its first 4 KiB."""
        start = self._positions[block]
        end = self._positions[block + 1] if block + 1 < len(self._positions) else self.size
        with self._file() as fd:
            window = os.pread(fd, INDEX_INTERVAL + HEADER_SIZE, start)
        at = 0
        while start + at < end:
            header = header_at(window, at)
            yield start + at, header
            at += header.size

    @contextmanager
    def _file(self) -> Iterator[int]:
        if self._fd >= 0:
            yield self._fd
            return
        fd = os.open(self.path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Put everything appended so far on the disk itself; through a descriptor of its own, so from any thread."""
        with suppress(FileNotFoundError):  # deleted meanwhile
            fd = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close for appending."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seal(self, producers: Snapshot) -> None:
        """Close for good, and leave the index beside the file so that no later start reads the segment again."""
        self.close()
        columns = b"".join(column.tobytes() for column in (self._offsets, self._positions, self._timestamps))
        head = {
            "size": self.size,
            "next_offset": self.next_offset,
            "timestamps": [self.first_timestamp, self.max_timestamp],
            "producers": producers,
            "crc": crc32c(columns),
        }
        written = self._sealed_path.with_suffix(".new")
        written.write_bytes(json.dumps(head).encode() + b"\n" + columns)
        written.replace(self._sealed_path)

    def load(self) -> Snapshot | None:
        """Take the index that sealing left; return the producers as of the segment's end, None when it is not whole."""
        try:
            line, columns = self._sealed_path.read_bytes().split(b"\n", 1)
            head = json.loads(line)
            if head["size"] != self.path.stat().st_size or head["crc"] != crc32c(columns):
                return None
        except (OSError, ValueError, KeyError):
            return None
        each = len(columns) // 3
        for number, column in enumerate((self._offsets, self._positions, self._timestamps)):
            column.frombytes(columns[number * each : (number + 1) * each])
        self.size, self.next_offset = head["size"], head["next_offset"]
        self.first_timestamp, self.max_timestamp = head["timestamps"]
        snapshot: Snapshot = head["producers"]
        return snapshot

    def remove(self) -> None:
        """Close and delete."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._sealed_path.unlink(missing_ok=True)
