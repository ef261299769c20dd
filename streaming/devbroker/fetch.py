"""Fetch: batches out, at once or as soon as there are some. Coded by hand, for it is the other half of all the work."""

from __future__ import annotations

import asyncio
import struct
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import Broker
from streaming.devbroker.cursor import Cursor, string
from streaming.devbroker.log import PartitionLog, Slice
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.wire import Call

VERSIONS = (4, 11)
"""Record batches v2 and no tagged fields yet; Apache Kafka 4 serves all of these too."""

MAX_BYTES = 1 << 20
"""Of an answer, unless its first batch alone is larger: what a reader who does not read costs at most."""

MAX_WAIT_MS = 60_000
"""An answer comes by then, an empty one if need be; its client asks again."""

LONG_SEARCH_S, PAUSE = 0.001, 9.0
"""A waiting request whose search takes longer than that searches again after a pause of so many times as long."""

_START_OFFSET_SINCE = 5
_SESSIONS_SINCE = 7
_LEADER_EPOCH_SINCE = 9
_RACK_SINCE = 11
_INT = struct.Struct(">i")
_PARTITION = struct.Struct(">ihqq")
_NO_LOG = -1


class _Wanted(NamedTuple):
    topic: str
    partition: int
    offset: int
    max_bytes: int


class _Query(NamedTuple):
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    session: int
    topics: list[tuple[str, list[_Wanted]]]


class _Found(NamedTuple):
    """What there is of one partition: a slice, nothing, or an error."""

    code: int
    log: PartitionLog | None
    slice: Slice | None

    @property
    def size(self) -> int:
        return self.slice.extent.length if self.slice else 0


async def fetch(broker: Broker, call: Call, frame: bytes | bytearray) -> bytes:
    """Return the answer's fields when ``min_bytes`` are there, ``max_wait_ms`` have passed or something is wrong."""
    query = _query(call, frame)
    if query.session:
        return _head(call.version, ErrorCode.fetch_session_id_not_found) + _INT.pack(0)
    found = _search(broker, query)
    if not _enough(query, found) and query.max_wait_ms > 0:
        found = await _waited(broker, query, found)
    return _answer(broker, call.version, query, found)


def _query(call: Call, frame: bytes | bytearray) -> _Query:
    cursor = Cursor(frame, call.body)
    _, max_wait_ms, min_bytes, max_bytes, _ = cursor.take(">iiiib")
    session, _ = cursor.take(">ii") if call.version >= _SESSIONS_SINCE else (0, 0)
    layout = ">iqi"
    if call.version >= _START_OFFSET_SINCE:
        layout = ">iqqi"
    if call.version >= _LEADER_EPOCH_SINCE:
        layout = ">iiqqi"
    place = 2 if call.version >= _LEADER_EPOCH_SINCE else 1  # of the offset, behind the leader's epoch
    topics = []
    for _ in range(cursor.count(compact=False)):
        topic = cursor.string()
        wanted = []
        for _ in range(cursor.count(compact=False)):
            numbers = cursor.take(layout)
            wanted.append(_Wanted(topic, numbers[0], numbers[place], numbers[-1]))
        topics.append((topic, wanted))
    return _Query(min(max_wait_ms, MAX_WAIT_MS), min_bytes, min(max_bytes, MAX_BYTES), session, topics)


def _search(broker: Broker, query: _Query) -> list[_Found]:
    """Find what may be sent of every partition: together no more than asked for, but one batch at least."""
    found = []
    left = query.max_bytes
    empty = True
    for _, partitions in query.topics:
        for wanted in partitions:
            try:
                log = broker.topics.log(wanted.topic, wanted.partition)
                part = log.slice(wanted.offset, max(min(left, wanted.max_bytes), 0), at_least_one=empty)
            except Refusal as refusal:
                found.append(_Found(refusal.code, broker.topics.logs.get((wanted.topic, wanted.partition)), None))
                continue
            found.append(_Found(0, log, part))
            left -= found[-1].size
            empty = empty and not found[-1].size
    return found


def _enough(query: _Query, found: list[_Found]) -> bool:
    wrong = any(part.code for part in found)
    return wrong or sum(part.size for part in found) >= query.min_bytes


async def _waited(broker: Broker, query: _Query, found: list[_Found]) -> list[_Found]:
    """Search again whenever something is appended, until it is enough or time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.max_wait_ms / 1000
    news = asyncio.Event()
    logs = [part.log for part in found if part.log]
    for log in logs:
        log.listeners.add(news.set)
    try:
        while not _enough(query, found):
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                break
            news.clear()
            began = loop.time()
            found = _search(broker, query)
            spent = loop.time() - began
            if spent > LONG_SEARCH_S:
                await asyncio.sleep(min(PAUSE * spent, deadline - began))
    finally:
        for log in logs:
            log.listeners.discard(news.set)
    return _search(broker, query)


def _head(version: int, code: ErrorCode = ErrorCode.none) -> bytes:
    return struct.pack(">ihi", 0, code, 0) if version >= _SESSIONS_SINCE else _INT.pack(0)


def _answer(broker: Broker, version: int, query: _Query, found: list[_Found]) -> bytes:
    chunks = [_head(version), _INT.pack(len(query.topics))]
    parts = iter(found)
    for topic, partitions in query.topics:
        chunks += (string(topic), _INT.pack(len(partitions)))
        for wanted in partitions:
            part = next(parts)
            records = part.slice.read() if part.slice and part.size else b""
            broker.bytes_out += len(records)
            chunks += (_described(version, wanted.partition, part), _INT.pack(len(records)), records)
    return b"".join(chunks)


def _described(version: int, partition: int, part: _Found) -> bytes:
    end = part.log.end if part.log and not part.code else _NO_LOG
    start = part.log.start if part.log and not part.code else _NO_LOG
    fields = _PARTITION.pack(partition, part.code, end, end)
    if version >= _START_OFFSET_SINCE:
        fields += struct.pack(">q", start)
    fields += _INT.pack(-1)  # no transactions, so none aborted
    if version >= _RACK_SINCE:
        fields += _INT.pack(-1)  # no nearer replica
    return fields
