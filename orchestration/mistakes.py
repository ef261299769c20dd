"""What a person wrote wrongly, in one line: the setting as it is written, its value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from domain.config import SECRETS, Model, Project, Publish
from domain.fields import shown
from domain.market import Market
from domain.spelling import meant

PREFIX = "TIDEMILL_"

_TABLES: Mapping[str, type[BaseModel]] = {"market": Market, "publish": Publish, "fleet": Model}
"""The tables of ``tidemill.toml``."""

_KINDS = {
    "bool": "true or false",
    "datetime": "a UTC time without quotes, such as 2025-01-08T00:00:00Z",
    "dict": "a table",
    "model": "a table",
    "string": "a text in quotes",
    "tuple": 'a list, such as ["BTC-USDT"]',
}
_BOUNDS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
    "string_too_long": ("max_length", "characters, at most"),
    "too_long": ("max_length", "entries, at most"),
    "too_short": ("min_length", "entries, at least"),
}

_TEXTS = {
    "missing": "is missing; add it",
    "literal_error": "{value} is not one of them; write {expected}",
    "string_pattern_mismatch": "{value} has a character that may not be there; write what fits {pattern}",
}


def first_fault(error: ValidationError, prefix: str = "") -> str:
    """Return the first thing that is wrong, in one line.

    Parameters
    ----------
    prefix : before the name of an environment's variable; nothing for a field of ``tidemill.toml``
    """
    one: Mapping[str, Any] = error.errors()[0]
    place: tuple[str | int, ...] = one["loc"]
    where = ".".join(str(part) for part in place)
    if one["type"] == "extra_forbidden":
        return f"unknown key '{where}'{meant(str(place[-1]), _keys(place))}; remove it or correct its spelling"
    words = _words(one, secret=bool(place) and place[0] in SECRETS)
    name = f"{prefix}{where.upper()}" if prefix and where else where
    return f"{name}: {words}" if name else words


def _keys(place: tuple[str | int, ...]) -> Iterable[str]:
    table = Project if len(place) == 1 else _TABLES.get(str(place[0]), Project)
    return table.model_fields


def _words(one: Mapping[str, Any], *, secret: bool) -> str:
    """Return what is wrong with one value, and what to write."""
    kind, context = str(one["type"]), one.get("ctx", {})
    value = "this" if secret else shown(one["input"])
    if kind == "value_error":
        return str(one["msg"]).removeprefix("Value error, ")
    if kind in _BOUNDS:
        bound, what = _BOUNDS[kind]
        found = f"it has {len(one['input'])}" if bound.endswith("length") else f"{value} is out of its bounds"
        return f"{found}; write {what} {context[bound]:g}"
    if kind in _TEXTS:
        return _TEXTS[kind].format(value=value, **context)
    wanted = next((wanted for name, wanted in _KINDS.items() if kind.startswith(name)), "")
    if wanted:
        return f"{value} is not what it takes; write {wanted}"
    return f"{value}: {one['msg']}; see the README for what may be written"
