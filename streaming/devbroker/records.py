"""The records inside a batch: opened only when somebody asks for an offset by time."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterator

from streaming.devbroker.batches import HEADER_SIZE, Header

_XERIAL = b"\x82SNAPPY\x00"
"""How snappy-java, and so every Java client, starts a stream of snappy blocks."""
_XERIAL_HEAD = 16
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4


def timestamps(batch: bytes, header: Header) -> Iterator[tuple[int, int]]:
    """Yield (timestamp in ms, offset) of every record of a batch, in offset order."""
    if header.log_append_time:
        yield from ((header.max_timestamp, header.base_offset + i) for i in range(header.record_count))
        return
    data = _inflated(batch[HEADER_SIZE:], header.codec)
    at = 0
    for _ in range(header.record_count):
        length, at = _varint(data, at)
        end = at + length
        delta, at = _varint(data, at + 1)  # one byte of attributes comes first
        position, at = _varint(data, at)
        yield header.base_timestamp + delta, header.base_offset + position
        at = end


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


def _inflated(data: bytes, codec: int) -> bytes:
    if codec == _GZIP:
        return gzip.decompress(data)
    if codec == _ZSTD:
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if codec == _LZ4:
        import pyarrow as pa

        with pa.input_stream(io.BytesIO(data), compression="lz4") as stream:
            return bytes(stream.read())
    if codec == _SNAPPY:
        return b"".join(_unsnapped(block) for block in _snappy_blocks(data))
    return data


def _snappy_blocks(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield data
        return
    at = _XERIAL_HEAD
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def _unsnapped(block: bytes) -> bytes:
    import pyarrow as pa

    size = shift = at = 0
    while True:  # a block opens with its inflated size as a plain varint
        size |= (block[at] & 0x7F) << shift
        if block[at] < 0x80:  # noqa: PLR2004 - the continuation bit
            break
        at += 1
        shift += 7
    return bytes(pa.decompress(block, decompressed_size=size, codec="snappy", asbytes=True))
