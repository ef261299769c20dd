"""The records inside a batch: opened only when somebody asks for an offset by time."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Iterator

from kio.schema.errors import ErrorCode

from streaming.devbroker.batches import HEADER_SIZE, Header
from streaming.devbroker.refusals import Refusal

_XERIAL = b"\x82SNAPPY\x00"
"""How snappy-java, and so every Java client, starts a stream of snappy blocks."""
_XERIAL_HEAD = 16
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_GZIP_WINDOW = 31  # zlib's word for the largest window, and a gzip header before it

MAX_INFLATED = 16 << 20
"""Bytes that the records of one batch may be."""

SCAN_S = 2.0
"""Looking through the records of one batch may take so long."""

_LOOK_EVERY = 4_096  # records
_LARGEST_SHIFT = 63


def first_at(batch: bytes, header: Header, timestamp: int) -> tuple[int, int] | None:
    """Return (time in ms, offset) of the first record of a batch at or after a time, or None.

    Raises
    ------
    Refusal
        CORRUPT_MESSAGE when the records are not what the header promises, or inflate to more than `MAX_INFLATED`;
        REQUEST_TIMED_OUT when there are so many that looking through them takes longer than `SCAN_S`.
    """
    try:
        return next((pair for pair in timestamps(batch, header) if pair[0] >= timestamp), None)
    except (IndexError, ValueError, OSError, EOFError, struct.error, zlib.error) as error:
        raise Refusal(ErrorCode.corrupt_message, f"the records of a batch cannot be read: {error}") from error


def timestamps(batch: bytes, header: Header) -> Iterator[tuple[int, int]]:
    """Yield (timestamp in ms, offset) of every record of a batch, in offset order."""
    if header.log_append_time:
        yield from ((header.max_timestamp, header.base_offset + i) for i in range(header.record_count))
        return
    data = _inflated(batch[HEADER_SIZE:], header.codec)
    at, until = 0, time.monotonic() + SCAN_S
    for number in range(header.record_count):
        length, at = _varint(data, at)
        end = at + length
        delta, at = _varint(data, at + 1)  # one byte of attributes comes first
        position, at = _varint(data, at)
        if end < at:
            raise ValueError(f"a record of {length} bytes")
        yield header.base_timestamp + delta, header.base_offset + position
        at = end
        if not number % _LOOK_EVERY and time.monotonic() > until:
            raise Refusal(ErrorCode.request_timed_out, f"{header.record_count} records in a batch")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag varint and the position behind it."""
    shift = value = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > _LARGEST_SHIFT:
            raise ValueError("a number of more than 64 bits")


def _inflated(data: bytes, codec: int) -> bytes:
    if codec == _GZIP:
        inflated = zlib.decompressobj(_GZIP_WINDOW).decompress(data, MAX_INFLATED + 1)
    elif codec == _ZSTD:
        inflated = _from_zstd(data)
    elif codec == _LZ4:
        import pyarrow as pa

        with pa.input_stream(io.BytesIO(data), compression="lz4") as stream:
            inflated = bytes(stream.read(MAX_INFLATED + 1))
    elif codec == _SNAPPY:
        inflated = _unsnapped(data)
    else:
        return data
    if len(inflated) > MAX_INFLATED:
        raise ValueError(f"they inflate to more than {MAX_INFLATED} bytes")
    return inflated


def _from_zstd(data: bytes) -> bytes:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=MAX_INFLATED).stream_reader(data, read_across_frames=True)
    try:
        return reader.read(MAX_INFLATED + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _unsnapped(data: bytes) -> bytes:
    import pyarrow as pa

    inflated = bytearray()
    for block in _snappy_blocks(data):
        size = _snappy_size(block)
        if len(inflated) + size > MAX_INFLATED:
            raise ValueError(f"they inflate to more than {MAX_INFLATED} bytes")
        inflated += pa.decompress(block, decompressed_size=size, codec="snappy", asbytes=True)
    return bytes(inflated)


def _snappy_blocks(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield data
        return
    at = _XERIAL_HEAD
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        if length < 1:
            raise ValueError(f"a snappy block of {length} bytes")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def _snappy_size(block: bytes) -> int:
    """Return the inflated size of a block, a plain varint that opens it."""
    size = 0
    for place, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return size
    raise ValueError("a snappy block without a size")
