"""The frames of the Kafka protocol: who asks what, and how an answer is put together by the schemas of ``kio``."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias, cast

from kio.index import load_response_schema
from kio.serial import entity_writer
from kio.static.primitive import i32Timedelta

from streaming.devbroker.cursor import Cursor
from streaming.devbroker.requests import Request, parts, reader

Fields: TypeAlias = Mapping[str, object]
"""An answer by field name. It may hold more than the version asked for knows: what that lacks is left out."""

_HEAD = struct.Struct(">ii")


class Call(NamedTuple):
    """Who asks what.

    Attributes
    ----------
    body : where the request's own fields begin in the frame
    """

    api: int
    version: int
    correlation: int
    client: str
    host: str
    body: int


def call_of(frame: bytes | bytearray, host: str, *, flexible: Callable[[int, int], bool]) -> Call:
    """Return the request header of a frame.

    Parameters
    ----------
    flexible
        Tells whether a version of a request has a header with tagged fields.

    Raises
    ------
    MalformedFrame
        When the frame has none.
    """
    cursor = Cursor(frame)
    api, version, correlation = cursor.take(">hhi")
    client = cursor.string()
    if flexible(api, version):
        cursor.skip_tags()
    return Call(api, version, correlation, client, host, cursor.at)


def decoded(call: Call, frame: bytes | bytearray) -> Request:
    """Return the request in a frame.

    Raises
    ------
    MalformedFrame
        When the bytes do not fit the schema.
    """
    return reader(call.api, call.version)(Cursor(frame, call.body))


def framed(call: Call, body: bytes) -> bytes:
    """Return the frame of an answer whose header has no tagged fields."""
    return _HEAD.pack(len(body) + 4, call.correlation) + body


def encoded(call: Call, answer: Fields, version: int | None = None) -> bytes:
    """Return the frame of an answer.

    Parameters
    ----------
    version
        Of the answer, where it is not the request's.
    """
    write, tagged_header = _writer(call.api, call.version if version is None else version)
    buffer = io.BytesIO()
    if tagged_header:
        buffer.write(b"\x00")
    write(buffer, answer)
    return framed(call, buffer.getvalue())


@cache
def _writer(api: int, version: int) -> tuple[Callable[[io.BytesIO, Fields], None], bool]:
    schema: Any = load_response_schema(api, version)
    build = builder(schema)
    write = cast("Callable[[io.BytesIO, object], None]", entity_writer(schema))
    return lambda buffer, answer: write(buffer, build(answer)), bool(schema.__header_schema__.__flexible__)


@cache
def builder(schema: Any) -> Callable[[Fields], object]:  # noqa: ANN401 - kio's entities share no useful type
    """Return what makes an entity of a schema from named fields, entities within it from theirs."""
    nested = {}
    always: dict[str, object] = {}
    names = [field.name for field in dataclasses.fields(schema)]
    for field in dataclasses.fields(schema):
        inner = [part for part in parts(field.type) if isinstance(part, type) and dataclasses.is_dataclass(part)]
        if inner:
            nested[field.name] = builder(inner[0])
        if field.type is i32Timedelta:
            always[field.name] = dt.timedelta(0)  # throttle times: nobody is slowed down here

    def build(fields: Fields) -> object:
        values = always | {name: fields[name] for name in names if name in fields}
        for name, inner in nested.items():
            entities = cast("Iterable[Fields] | None", values.get(name))
            if entities is not None:
                values[name] = tuple(inner(entity) for entity in entities)
        return schema(**values)

    return build
