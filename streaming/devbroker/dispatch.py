"""Dispatch: a frame to who answers it, and large ones by way of the worker."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from kio.schema.errors import ErrorCode

from streaming.devbroker.apis import API_VERSIONS, APIS, FETCH, PRODUCE, VERSIONS, offered
from streaming.devbroker.broker import Ask, Broker
from streaming.devbroker.cursor import MalformedFrame
from streaming.devbroker.fetch import fetch
from streaming.devbroker.produce import produce
from streaming.devbroker.requests import is_flexible
from streaming.devbroker.wire import call_of, decoded, encoded, framed

LARGE_REQUEST_BYTES, LARGE_ANSWER = 8 << 10, 100
"""Bytes of a request, and entities of an answer, from which on decoding and encoding take milliseconds."""


async def answered(broker: Broker, frame: bytes | bytearray, host: str) -> bytes | None:
    """Return the answer to a frame, or None when the client wants none.

    Raises
    ------
    MalformedFrame
        When it does not hold a request, or one that is not served: like Apache Kafka, the broker hangs up then.
    """
    call = call_of(frame, host, flexible=_flexible)
    first, last = VERSIONS.get(call.api, (0, -1))
    if not first <= call.version <= last:
        if call.api == API_VERSIONS:  # how a client newer than the broker learns what it may ask
            return encoded(call, offered(ErrorCode.unsupported_version), version=0)
        raise MalformedFrame(f"request {call.api} version {call.version} is not served")
    if call.api == PRODUCE:
        body = await produce(broker, call, frame)
        return None if body is None else framed(call, body)
    if call.api == FETCH:
        return framed(call, await fetch(broker, call, frame))
    large = len(frame) >= LARGE_REQUEST_BYTES
    request = await broker.worker.run(decoded, call, frame) if large else decoded(call, frame)
    answer = APIS[call.api].handler(Ask(broker, call, request))
    fields = await answer if isinstance(answer, Awaitable) else answer
    if _entities(fields) >= LARGE_ANSWER:
        return await broker.worker.run(encoded, call, fields)
    return encoded(call, fields)


def _flexible(api: int, version: int) -> bool:
    first, last = VERSIONS.get(api, (0, -1))
    return first <= version <= last and is_flexible(api, version)


def _entities(fields: Mapping[str, object]) -> int:
    """Return how many entities an answer has, itself included."""
    arrays = (value for value in fields.values() if isinstance(value, list | tuple))
    return 1 + sum(_entities(part) for array in arrays for part in array if isinstance(part, Mapping))
