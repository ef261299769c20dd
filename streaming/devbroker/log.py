"""The log of one partition: segments in a row, appended to at one end and dropped at the other."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import structlog
from kio.schema.errors import ErrorCode

from streaming.devbroker import batches, files
from streaming.devbroker.producers import EXPIRES_MS, Producers
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.segment import Extent, Segment
from streaming.devbroker.settings import LogSettings

logger = structlog.get_logger(__name__)

Fsync = Literal["never", "interval", "always"]

DROPS_A_ROUND = 8
"""Segments one round of retention may delete: the loop that serves clients does this between two requests."""


class Appended(NamedTuple):
    """Where a batch is, and when it came there by the broker's clock (-1: the producer's clock counts)."""

    base_offset: int
    append_time: int


class Slice(NamedTuple):
    """A run of whole batches found for a reader, not read yet."""

    segment: Segment
    extent: Extent

    def read(self) -> bytes:
        """Return the bytes."""
        return self.segment.read(self.extent)


class PartitionLog:
    """Append-only batches with offsets.

    Parameters
    ----------
    directory
        Of this partition; made when it is not there.
    settings
        Of the topic.
    fsync : ``never``, ``interval`` or ``always``
        When an append reaches the disk itself: left to the system (it survives the death of the process, not the loss
        of power), at the next `sync`, or before it returns.

    Notes
    -----
    Opening checks every batch of the newest segment and cuts off a torn tail. Sealed segments are taken as they are.
    """

    def __init__(self, directory: Path, settings: LogSettings, fsync: Fsync) -> None:
        self.directory = directory
        self.settings = settings
        self.listeners: set[Callable[[], None]] = set()
        self.closed = False
        self._fsync = fsync
        self._dirty = False
        self._producers = Producers()
        if fsync == "never":
            directory.mkdir(parents=True, exist_ok=True)
        else:
            files.make_directory(directory)
        bases = sorted(int(path.stem) for path in directory.glob("*.log")) or [0]
        self._segments = [Segment(directory, base) for base in bases]
        for segment in self._segments[:-1]:
            self._load(segment)
        self._open(self._active)
        self._recover(self._active)

    @property
    def start(self) -> int:
        """The offset of the oldest record."""
        return self._segments[0].base_offset

    @property
    def end(self) -> int:
        """The offset the next record will have: the high watermark."""
        return self._active.next_offset

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def _active(self) -> Segment:
        return self._segments[-1]

    def _open(self, segment: Segment) -> None:
        fresh = not segment.path.exists()
        segment.open()
        if fresh and self._fsync != "never":
            # Before anything in it is acknowledged, and before an older one goes: without any, offsets start anew.
            files.sync_directory(self.directory)

    def _load(self, segment: Segment) -> None:
        snapshot = segment.load()
        if snapshot is None:
            self._recover(segment)
        else:
            self._producers.restore(snapshot, _now_ms())

    def _recover(self, segment: Segment) -> None:
        now = _now_ms()
        cut = segment.recover(lambda header: self._producers.remember(header, header.base_offset, now))
        if cut:
            logger.warning("torn tail cut off", file=str(segment.path), bytes=cut, next_offset=segment.next_offset)

    def append(self, data: memoryview) -> Appended:
        """Append the batch of a producer, and wake who waits for it.

        Raises
        ------
        Refusal
            When the batch is unfit (see `batches.accepted`), its producer out of order (see `Producers.repeated`),
            INVALID_TIMESTAMP when its times are too far ahead, or KAFKA_STORAGE_ERROR when the disk refuses it.
        """
        now = _now_ms()
        header = batches.accepted(data, self.settings.max_message_bytes)
        if not self.settings.log_append_time and header.max_timestamp - now > self.settings.ahead_ms:
            raise Refusal(ErrorCode.invalid_timestamp, f"a time {header.max_timestamp - now} ms ahead of the broker's")
        repeated = self._producers.repeated(header)
        if repeated is not None:
            return Appended(repeated, -1)
        if self.settings.log_append_time:
            data, header = batches.stamped(data, header, now)
        base_offset = self.end
        try:
            self._roll_before(header)
            self._active.append(header, data)
            if self._fsync == "always":
                self._active.sync()
        except OSError as error:
            logger.error("append refused", log=str(self.directory), reason=str(error))  # noqa: TRY400 - it is the disk's
            raise Refusal(ErrorCode.kafka_storage_error, str(error)) from error
        self._dirty = True
        self._producers.remember(header, base_offset, now)
        self.wake()
        return Appended(base_offset, now if self.settings.log_append_time else -1)

    def _roll_before(self, header: batches.Header) -> None:
        active = self._active
        full = active.size + header.size > self.settings.segment_bytes
        if active.size and (full or header.max_timestamp - active.first_timestamp >= self.settings.segment_ms):
            self._roll()

    def _roll(self) -> None:
        if self._fsync == "interval":
            self._active.sync()
        fresh = Segment(self.directory, self.end)
        self._open(fresh)
        self._active.seal(self._producers.snapshot())
        self._segments.append(fresh)

    def wake(self) -> None:
        """Tell every waiting reader that there is something new: data, or that the log is closed."""
        for listener in tuple(self.listeners):
            listener()

    def slice(self, offset: int, max_bytes: int, *, at_least_one: bool = True) -> Slice | None:
        """Return the batches from an offset on, as many of one segment as fit; None at the end of the log.

        Raises
        ------
        Refusal
            OFFSET_OUT_OF_RANGE when the offset is before the start or behind the end.
        """
        if not self.start <= offset <= self.end:
            raise Refusal(ErrorCode.offset_out_of_range)
        if offset == self.end:
            return None
        index = bisect_right(self._segments, offset, key=lambda segment: segment.base_offset) - 1
        for segment in self._segments[index:]:
            if offset < segment.next_offset:  # not the first one only when that lost its tail with the power
                start = max(offset, segment.base_offset)
                return Slice(segment, segment.extent(start, max_bytes, at_least_one=at_least_one))
        return None

    def at_time(self, timestamp: int) -> tuple[bytes, batches.Header] | None:
        """Return the first batch with a record at or after a time (ms), or None; see `records.first_at`."""
        found = (segment.batch_at_time(timestamp) for segment in self._segments)
        return next((batch for batch in found if batch is not None), None)

    @property
    def newest_time(self) -> int:
        """The newest time of all records (ms), below 0 where none has one."""
        return max(segment.max_timestamp for segment in self._segments)

    def expire(self, now_ms: int) -> int:
        """Drop old segments as ``retention.ms`` and ``retention.bytes`` say, and forget silent producers.

        Returns
        -------
        int
            Segments dropped: at most `DROPS_A_ROUND`.
        """
        self._producers.forget_before(now_ms - EXPIRES_MS)
        surplus = self.size - self.settings.retention_bytes if self.settings.retention_bytes >= 0 else 0
        dropped = 0
        while dropped < DROPS_A_ROUND:
            oldest = self._segments[0]
            aged = 0 <= self.settings.retention_ms < now_ms - oldest.newest_ms
            if not oldest.size or not (aged or surplus >= oldest.size):
                break
            if oldest is self._active:
                if not aged:
                    break
                self._roll()
            surplus -= oldest.size
            del self._segments[0]
            oldest.remove()
            dropped += 1
        if dropped:
            logger.info("old segments deleted", log=str(self.directory), segments=dropped, start=self.start)
        return dropped

    def sync(self) -> None:
        """Put everything appended so far on the disk itself; may run beside appends, in another thread."""
        if self._dirty:
            self._dirty = False
            self._active.sync()

    def close(self) -> None:
        """Close the file; who waits for data is woken and finds the log closed."""
        self.closed = True
        self._active.close()
        self.wake()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
