"""Requests decoded by the schemas of ``kio``, but not by its reader: that one ends the process on a forged length."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from functools import cache
from types import NoneType
from typing import Any, TypeAlias, get_args

from kio.index import load_request_schema

from streaming.devbroker.cursor import Cursor, MalformedFrame

Request: TypeAlias = Any
"""A request: a frozen dataclass of kio, whose fields depend on the version asked."""

Take: TypeAlias = Callable[[Cursor], Any]

# A span of 64 bits may be longer than Python's own can be; the only one there is, nobody reads.
_NUMBERS = {"int8": ">b", "int16": ">h", "int32": ">i", "int64": ">q", "bool": ">?", "timedelta_i64": ">q"}


@cache
def is_flexible(api: int, version: int) -> bool:
    """Tell whether a version has tagged fields and compact lengths."""
    return bool(load_request_schema(api, version).__flexible__)


@cache
def reader(api: int, version: int) -> Callable[[Cursor], Request]:
    """Return what takes a request from a frame; it raises MalformedFrame when that does not hold one."""
    return entity(load_request_schema(api, version))


def entity(schema: Any) -> Take:  # noqa: ANN401 - kio's entities share no useful type
    """Return what takes an entity of a schema."""
    flexible = bool(schema.__flexible__)
    takes = [(field.name, _field(field, flexible=flexible)) for field in dataclasses.fields(schema)]

    def take(cursor: Cursor) -> Request:
        values = {name: one(cursor) for name, one in takes}
        if flexible:
            cursor.skip_tags()
        return schema(**values)

    return take


def _field(field: dataclasses.Field[Any], *, flexible: bool) -> Take:
    named = parts(field.type)
    nested = next((part for part in named if dataclasses.is_dataclass(part)), None)
    array = any(getattr(part, "__origin__", None) is tuple for part in named)
    nullable = NoneType in named
    if nested is not None:
        one = entity(nested)
    else:
        one = _plain(field.metadata["kafka_type"], flexible=flexible, nullable=nullable and not array)
    return _array(one, flexible=flexible, nullable=nullable) if array else one


def parts(annotation: object) -> list[object]:
    """Return an annotation and every type named in it."""
    return [annotation, *(part for inner in get_args(annotation) for part in parts(inner))]


def _array(one: Take, *, flexible: bool, nullable: bool) -> Take:
    def take(cursor: Cursor) -> tuple[object, ...] | None:
        count = cursor.count(compact=flexible)
        if count < 0 and not nullable:
            raise MalformedFrame("null, where an array must be")
        return None if count < 0 else tuple(one(cursor) for _ in range(count))

    return take


def _plain(kind: str, *, flexible: bool, nullable: bool) -> Take:
    if kind in _NUMBERS:
        layout = _NUMBERS[kind]
        return lambda cursor: cursor.take(layout)[0]
    if kind == "timedelta_i32":
        return lambda cursor: dt.timedelta(milliseconds=cursor.take(">i")[0])
    if kind == "uuid":
        return lambda cursor: uuid.UUID(bytes=bytes(cursor.bytes(16)))
    text = kind == "string"
    if not text and kind != "bytes":
        raise NotImplementedError(f"a field of {kind}")

    def take(cursor: Cursor) -> str | bytes | None:
        length = cursor.take(">h")[0] if text and not flexible else cursor.length(compact=flexible)
        if length < 0:
            if not nullable:
                raise MalformedFrame("null, where a value must be")
            return None
        return cursor.text(length) if text else bytes(cursor.bytes(length))

    return take


def milliseconds(span: dt.timedelta) -> int:
    """Return a time span of a request in the protocol's own unit."""
    return span // dt.timedelta(milliseconds=1)
