"""A record batch (format v2) seen from outside: its header is read and checked, its records stay opaque bytes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c
from kio.schema.errors import ErrorCode

from streaming.devbroker.refusals import Refusal

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE = HEADER.size
"""61 bytes; the records follow."""

PREFIX_SIZE = 12
"""Base offset and length come before what the length counts."""

CRC_START = 21
"""The checksum covers everything behind itself, so base offset and leader epoch may be rewritten."""

MAGIC = 2
NO_PRODUCER = -1
LEADER_EPOCH = 0
"""One node, one leader, one epoch."""

_COMPRESSION = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20

_PLACE = struct.Struct(">qii")
_CRC_AND_ATTRIBUTES = struct.Struct(">Ih")


class Header(NamedTuple):
    """The 61 bytes before the records, in their order on the wire."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch, header included."""
        return self.length + PREFIX_SIZE

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & _COMPRESSION

    @property
    def log_append_time(self) -> bool:
        """Whether every record's time is the broker's (``max_timestamp``)."""
        return bool(self.attributes & _LOG_APPEND_TIME)


def header_at(data: bytes | memoryview, position: int = 0) -> Header:
    """Return the header that starts at a position; the caller has seen that 61 bytes are there."""
    return Header(*HEADER.unpack_from(data, position))


def whole(data: bytes | memoryview, position: int, end: int) -> Header | None:
    """Return the header of a whole, unharmed batch at a position, or None when there is none."""
    if position + HEADER_SIZE > end:
        return None
    header = header_at(data, position)
    if header.magic != MAGIC or header.length < HEADER_SIZE - PREFIX_SIZE or position + header.size > end:
        return None
    intact = crc32c(data[position + CRC_START : position + header.size]) == header.crc
    return header if intact else None


def accepted(records: memoryview, limit: int) -> Header:
    """Return the header of a producer's batch, or refuse what Apache Kafka would refuse.

    Parameters
    ----------
    records
        The records field of one partition of a Produce request: exactly one batch.
    limit : bytes
        ``max.message.bytes`` of the topic.

    Raises
    ------
    Refusal
        CORRUPT_MESSAGE, UNSUPPORTED_FOR_MESSAGE_FORMAT, MESSAGE_TOO_LARGE, INVALID_RECORD, INVALID_TIMESTAMP, or
        INVALID_TXN_STATE for a batch of a transaction, which this broker does not have.
    """
    if len(records) < HEADER_SIZE:
        raise Refusal(ErrorCode.corrupt_message, f"a batch of {len(records)} bytes has no header")
    header = header_at(records)
    if header.magic != MAGIC:
        raise Refusal(ErrorCode.unsupported_for_message_format, f"message format v{header.magic}, only v2 is served")
    if header.size > limit:
        raise Refusal(ErrorCode.message_too_large, f"a batch of {header.size} bytes, max.message.bytes is {limit}")
    if len(records) > header.size > HEADER_SIZE:
        raise Refusal(ErrorCode.invalid_record, "more than one batch for one partition")
    if whole(records, 0, len(records)) is None:
        raise Refusal(ErrorCode.corrupt_message, "the batch fails its checksum")
    if header.record_count < 1 or header.last_offset_delta != header.record_count - 1 or header.attributes & _CONTROL:
        raise Refusal(ErrorCode.invalid_record, "record count and offsets disagree, or a control batch from a client")
    if header.attributes & _TRANSACTIONAL:
        raise Refusal(ErrorCode.invalid_txn_state, "the dev broker has no transactions")
    if header.log_append_time:
        raise Refusal(ErrorCode.invalid_timestamp, "the time of the broker is the broker's to set")
    return header


def place(base_offset: int, header: Header) -> bytes:
    """Return the first 16 bytes of a batch that now has its place in the log; the checksum does not cover them."""
    return _PLACE.pack(base_offset, header.length, LEADER_EPOCH)


def stamped(records: memoryview, header: Header, now_ms: int) -> tuple[memoryview, Header]:
    """Return the batch with the broker's time for all its records (``LogAppendTime``), checksum renewed."""
    data = bytearray(records)
    header = header._replace(attributes=header.attributes | _LOG_APPEND_TIME, max_timestamp=now_ms)
    HEADER.pack_into(data, 0, *header)
    header = header._replace(crc=crc32c(memoryview(data)[CRC_START:]))
    _CRC_AND_ATTRIBUTES.pack_into(data, CRC_START - 4, header.crc, header.attributes)
    return memoryview(data), header
