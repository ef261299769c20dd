"""ListOffsets: where a partition begins, where it ends, and where it was at a given time."""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import Ask, Broker
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.requests import Request
from streaming.devbroker.wire import Fields

_LATEST, _EARLIEST, _NEWEST_TIME = -1, -2, -3
_NOWHERE = (-1, -1)


def list_offsets(ask: Ask) -> Fields:
    """ListOffsets."""
    return {
        "topics": [
            {"name": topic.name, "partitions": [_found(ask.broker, topic.name, asked) for asked in topic.partitions]}
            for topic in ask.request.topics
        ],
    }


def _found(broker: Broker, topic: str, asked: Request) -> Fields:
    code = ErrorCode.none
    timestamp, offset = _NOWHERE
    try:
        timestamp, offset = _place(broker, topic, asked.partition_index, asked.timestamp)
    except Refusal as refusal:
        code = refusal.code
    found = {"timestamp": timestamp, "offset": offset, "leader_epoch": -1 if code else 0}
    return {"partition_index": asked.partition_index, "error_code": code, **found}


def _place(broker: Broker, topic: str, partition: int, timestamp: int) -> tuple[int, int]:
    log = broker.topics.log(topic, partition)
    if timestamp == _LATEST:
        return -1, log.end
    if timestamp == _EARLIEST:
        return -1, log.start
    if timestamp == _NEWEST_TIME:
        return log.newest_time() or _NOWHERE
    if timestamp < 0:
        raise Refusal(ErrorCode.unsupported_version)
    return log.at_time(timestamp) or _NOWHERE
