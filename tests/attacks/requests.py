"""Requests of every kind and version the dev broker serves: as the protocol's schemas write them, and spoilt."""

from __future__ import annotations

import gzip
import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import zstandard
from crc32c import crc32c
from kio.index import load_request_schema
from kio.serial import entity_writer

from streaming.devbroker.apis import VERSIONS
from streaming.devbroker.batches import CRC_START, HEADER, HEADER_SIZE
from streaming.devbroker.wire import builder
from tests.streaming.devbroker.test_apis import ASKED, filled

EVERY = [(api, version) for api, (low, high) in VERSIONS.items() for version in range(low, high + 1)]
TOPICS = ("t", "u")
"""Those that the broker under attack has, with two partitions each."""

NUMBERS = (0, 1, -1, -2, -3, 2, 5, 127, 128, 255, 1000, 4096, 32767, -32768, 65536, 1 << 20, 2**31 - 1, -(2**31))
LARGE_NUMBERS = (*NUMBERS, 2**31, 2**53, 1_700_000_000_000, 2**63 - 1, -(2**63))
TEXTS = ("", *TOPICS, "g", "no such", "x" * 249, "x" * 250, "x" * 30_000, "\x00", "..", "ä" * 200, "retention.ms", "1")
BOMBS = (b"\xff" * 5, b"\xff" * 10, b"\xff" * 600, b"\x80" * 12, b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\x7f")
LENGTHS = tuple(struct.pack(">i", number) for number in (-2, -1, 0, 1, 5_000, 5_001, 1 << 20, 2**31 - 1, -(2**31)))


def batch(records: bytes, count: int = 1, attributes: int = 0, times: tuple[int, int] = (5, 5), **more: int) -> bytes:
    """Return a batch with a checksum that fits, whatever is in it."""
    fields = {"producer": -1, "epoch": -1, "sequence": -1, "delta": count - 1, "magic": 2} | more
    head = [0, HEADER_SIZE - 12 + len(records), 0, fields["magic"], 0, attributes, fields["delta"], *times]
    head += [fields["producer"], fields["epoch"], fields["sequence"], count]
    whole = bytearray(HEADER.pack(*head) + records)
    return mended(whole)


def mended(whole: bytearray) -> bytes:
    """Return a batch with its length and checksum made to fit."""
    if len(whole) >= HEADER_SIZE:
        struct.pack_into(">i", whole, 8, len(whole) - 12)
        struct.pack_into(">I", whole, CRC_START - 4, crc32c(bytes(whole[CRC_START:])))
    return bytes(whole)


RECORD = b"\x0e\x00\x00\x00\x01\x02x\x00"
SNAPPY = b"\x07\x18" + b"\x0e\x00\x00\x00\x01\x02x"


def batches() -> Iterator[bytes]:
    """Yield batches: sound, compressed, dishonest about their records, and bombs."""
    yield batch(RECORD)
    yield batch(RECORD * 3, 3, times=(5, 2**40))
    yield batch(RECORD, producer=7, epoch=0, sequence=0)
    yield batch(RECORD, 2**31 - 1)
    yield batch(b"\x01" + b"\x00" * 20, 2**31 - 1)
    yield batch(b"\xff" * 40, 5)
    yield batch(gzip.compress(RECORD), attributes=1)
    yield batch(gzip.compress(bytes(1 << 24) + RECORD, 1), 4, attributes=1)
    yield batch(zstandard.compress(RECORD), attributes=4)
    yield batch(zstandard.compress(bytes(1 << 25)), 2**30, attributes=4)
    yield batch(b"\x82SNAPPY\x00" + bytes(8) + struct.pack(">i", len(SNAPPY)) + SNAPPY, attributes=2)
    yield batch(b"\x82SNAPPY\x00" + bytes(8) + struct.pack(">i", -4) + SNAPPY, attributes=2)
    yield batch(b"\xff\xff\xff\xff\x0f" + SNAPPY, attributes=2)
    yield batch(b"\x04\x22\x4d\x18" + bytes(40), attributes=3)
    yield batch(RECORD, attributes=8)
    yield batch(RECORD, attributes=0x30)
    yield batch(RECORD, magic=1)
    yield batch(RECORD, times=(-(2**63), 4))
    yield b""


def frame(api: int, version: int, request: object) -> bytes:
    """Return a request as the schemas write it, with its header.

    Raises
    ------
    Exception
        Of whatever kind, when the schema does not allow the request.
    """
    schema = load_request_schema(api, version)
    buffer = io.BytesIO()
    buffer.write(struct.pack(">hhihs", api, version, 77, 1, b"c"))
    if schema.__flexible__:
        buffer.write(b"\x00")
    entity_writer(schema)(buffer, builder(schema)(request))
    return buffer.getvalue()


MOST_TEXT = 1 << 20

WORDS = {"TOPIC": "t", "FRESH": "fresh", "some": "g", "joined": "joined", "BATCH": batch(RECORD)}


def sound() -> Iterator[tuple[str, bytes]]:
    """Yield (name, frame) of one good request of each kind and version."""
    for api, version in EVERY:
        yield f"api{api}-v{version}", frame(api, version, filled(ASKED[api], WORDS))


def made(rng: random.Random) -> bytes:
    """Return a request of some kind in which some values are not what they should be."""
    for _ in range(20):
        api, version = rng.choice(EVERY)
        asked = filled(ASKED[api], WORDS)
        for _ in range(rng.randint(0, 3)):
            asked = _changed(asked, rng)
        if len(repr(asked)) > MOST_TEXT:  # many of many: the broker refuses it by its first thousands
            continue
        try:
            return frame(api, version, asked)
        except Exception:  # noqa: S112, BLE001 - the schema refuses such a value before the broker could
            continue
    return b""


def _changed(value: Any, rng: random.Random) -> Any:  # noqa: PLR0911 - one case a type
    if isinstance(value, dict):
        name = rng.choice(list(value))
        return {**value, name: _changed(value[name], rng)}
    if isinstance(value, list | tuple):
        if value and rng.random() < 0.7:
            at = rng.randrange(len(value))
            return type(value)([*value[:at], _changed(value[at], rng), *value[at + 1 :]])
        return type(value)(list(value)[:6] * rng.choice((0, 2, 3, 50, 1_200)))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(LARGE_NUMBERS)
    if isinstance(value, str):
        return rng.choice(TEXTS)
    if isinstance(value, bytes):
        return rng.choice(list(batches()))
    return value


def spoilt(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Return a frame with a few of its bytes changed: cut, spliced, lengths and varints blown up."""
    whole = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(whole) + 1)
        match rng.randrange(8):
            case 0:
                del whole[at:]
            case 1:
                whole[at:] = other[rng.randrange(len(other) + 1) :]
            case 2:
                whole[at:at] = rng.choice(BOMBS)
            case 3:
                whole[at : at + 4] = rng.choice(LENGTHS)
            case 4:
                whole[at : at + 1] = bytes([rng.randrange(256)])
            case 5:
                whole[at:at] = whole[at : at + rng.randrange(64)] * rng.choice((1, 2, 30))
            case 6:
                del whole[at : at + rng.randrange(1, 9)]
            case 7:
                whole[4:8] = rng.randbytes(4)
    return bytes(whole)
