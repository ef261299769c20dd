"""Produce: batches in. Coded by hand, for it is half of all the work."""

from __future__ import annotations

import asyncio
import struct
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import Broker
from streaming.devbroker.cursor import Cursor, string
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.wire import Call

VERSIONS = (3, 8)
"""Record batches v2 and no tagged fields yet; Apache Kafka 4 serves all of these too."""

TURN_BYTES = 4 << 20
"""Bytes appended before other clients have their turn: a few milliseconds."""

PARTITION_BYTES = 8 << 10
"""What a partition counts for besides its records: even to refuse it takes about as long as appending so many."""

_START_OFFSET_SINCE = 5
_ERROR_TEXT_SINCE = 8
_ACKS = {-1, 0, 1}
_PARTITION = struct.Struct(">ihqq")
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")


class _Outcome(NamedTuple):
    code: int
    base_offset: int
    append_time: int
    start: int
    message: str | None


async def produce(broker: Broker, call: Call, frame: bytes | bytearray) -> bytes | None:
    """Append every batch of a request; return the answer's fields, or None when none is wanted (``acks=0``)."""
    cursor = Cursor(frame, call.body)
    transactional = cursor.nullable_string()
    acks, _ = cursor.take(">hi")
    answer = [_INT.pack(count := max(cursor.count(compact=False), 0))]
    since = 0
    for _ in range(count):
        topic = cursor.string()
        answer += (string(topic), _INT.pack(partitions := max(cursor.count(compact=False), 0)))
        for _ in range(partitions):
            (partition,) = cursor.take(">i")
            records = cursor.bytes(max(cursor.length(compact=False), 0))
            broker.bytes_in += len(records)
            since += PARTITION_BYTES + len(records)
            if since > TURN_BYTES:
                since = 0
                await asyncio.sleep(0)
            code = ErrorCode.none
            if transactional is not None:
                code = ErrorCode.transactional_id_authorization_failed
            elif acks not in _ACKS:
                code = ErrorCode.invalid_required_acks
            outcome = _append(broker, topic, partition, records) if code is ErrorCode.none else _refused(Refusal(code))
            answer.append(_encoded(call.version, partition, outcome))
    answer.append(_INT.pack(0))
    return b"".join(answer) if acks else None


def _append(broker: Broker, topic: str, partition: int, records: memoryview) -> _Outcome:
    try:
        log = broker.topics.log(topic, partition)
        base_offset, append_time = log.append(records)
    except Refusal as refusal:
        return _refused(refusal)
    return _Outcome(0, base_offset, append_time, log.start, None)


def _refused(refusal: Refusal) -> _Outcome:
    return _Outcome(refusal.code, -1, -1, -1, refusal.message)


def _encoded(version: int, partition: int, outcome: _Outcome) -> bytes:
    fields = _PARTITION.pack(partition, outcome.code, outcome.base_offset, outcome.append_time)
    if version >= _START_OFFSET_SINCE:
        fields += _LONG.pack(outcome.start)
    if version >= _ERROR_TEXT_SINCE:
        fields += _INT.pack(0) + string(outcome.message)
    return fields
