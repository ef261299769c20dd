"""ListOffsets: where a partition begins, where it ends, and where it was at a given time."""

from __future__ import annotations

from collections import Counter

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import Ask, Broker
from streaming.devbroker.records import first_at
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.requests import Request
from streaming.devbroker.wire import Fields

_LATEST, _EARLIEST, _NEWEST_TIME = -1, -2, -3
_NOWHERE = (-1, -1)


async def list_offsets(ask: Ask) -> Fields:
    """ListOffsets; a partition asked for twice is refused, as Kafka has it."""
    times = Counter((topic.name, asked.partition_index) for topic in ask.request.topics for asked in topic.partitions)
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    await _found(ask.broker, topic.name, asked, once=times[topic.name, asked.partition_index] == 1)
                    for asked in topic.partitions
                ],
            }
            for topic in ask.request.topics
        ],
    }


async def _found(broker: Broker, topic: str, asked: Request, *, once: bool) -> Fields:
    code = ErrorCode.none if once else ErrorCode.invalid_request
    timestamp, offset = _NOWHERE
    try:
        if once:
            timestamp, offset = await _place(broker, topic, asked.partition_index, asked.timestamp)
    except Refusal as refusal:
        code = refusal.code
    found = {"timestamp": timestamp, "offset": offset, "leader_epoch": -1 if code else 0}
    return {"partition_index": asked.partition_index, "error_code": code, **found}


async def _place(broker: Broker, topic: str, partition: int, timestamp: int) -> tuple[int, int]:
    log = broker.topics.log(topic, partition)
    if timestamp == _LATEST:
        return -1, log.end
    if timestamp == _EARLIEST:
        return -1, log.start
    if timestamp == _NEWEST_TIME:
        timestamp = log.newest_time
        if timestamp < 0:
            return _NOWHERE
    if timestamp < 0:
        raise Refusal(ErrorCode.unsupported_version)
    found = log.at_time(timestamp)
    if found is None:
        return _NOWHERE
    return await broker.worker.run(first_at, *found, timestamp) or _NOWHERE
