"""The fields that settings are made of: durations, instruments, numbers, and the frozen value that holds them."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from domain.events import NANOS_PER_SECOND

INSTRUMENT_PATTERN = re.compile(r"^[a-z0-9_]+:[A-Z0-9][A-Z0-9._-]*\Z")
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NANOS_PER_SECOND, "m": 60 * NANOS_PER_SECOND}
_UNITS |= {"h": 60 * _UNITS["m"], "d": 24 * 60 * _UNITS["m"]}

KEY_LENGTH = 32
"""Characters of a key at least: 64 hexadecimal ones are made here, 256 bits."""

_KEY_VARIETY = 8  # 64 random hexadecimal characters use all 16, but for one key in thousands
_SHOWN = 60
_SYMBOL = 60


def parse_duration(text: object) -> int:
    """Return nanoseconds from ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h"`` or ``"7d"``.

    >>> parse_duration("5m") // NANOS_PER_SECOND
    300

    Raises
    ------
    ValueError
        When it is not a number and a unit, or is not positive.
    """
    match = re.fullmatch(r"([0-9]{1,9})(ns|us|ms|s|m|h|d)", text) if isinstance(text, str) else None
    if not match or int(match[1]) == 0:
        raise ValueError(f"{shown(text)} is not a duration; write a number and a unit, such as 30s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def duration_text(nanos: int) -> str:
    """Return a duration as ``parse_duration`` reads it, in the largest unit that says it exactly.

    >>> duration_text(300 * NANOS_PER_SECOND), duration_text(1_500_000_000)
    ('5m', '1500ms')
    """
    unit = next(name for name, size in reversed(_UNITS.items()) if nanos % size == 0)
    return f"{nanos // _UNITS[unit]}{unit}"


def _nanos(value: object) -> int:
    """Return a duration that code gives as nanoseconds and a person as text."""
    return value if type(value) is int and value > 0 else parse_duration(value)


def shown(value: object) -> str:
    """Return a value for a message: in one line, and not a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse_instrument(value: str) -> str:
    """Return the instrument as it is, or say how one is written.

    Raises
    ------
    ValueError
        When it is not ``venue:SYMBOL``.
    """
    if not INSTRUMENT_PATTERN.match(value) or len(value) > _SYMBOL:
        raise ValueError(f"{shown(value)} is not an instrument; write BTC-USDT, or with its venue binance:BTC-USDT")
    return value


def parse_key(value: str) -> str:
    """Return the key that signs model versions; the message repeats none of it.

    Raises
    ------
    ValueError
        When it is too short, or cannot be random.
    """
    wrong = ""
    if value != value.strip():
        wrong = "begins or ends with a blank or a line's end"
    elif len(value) < KEY_LENGTH:
        wrong = f"has {len(value)} characters"
    elif len(set(value)) < _KEY_VARIETY:
        wrong = f"repeats {len(set(value))} different characters"
    if wrong:
        raise ValueError(
            f"{wrong}; a key has at least {KEY_LENGTH} random ones: write what 'openssl rand -hex 32' prints"
        )
    return value


def _number(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number; write one")
        return value
    raise ValueError(f"{shown(value)} is not a number; write one without quotes")


def _whole(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{shown(value)} is not a whole number; write one without quotes and without a point")


Duration = Annotated[int, BeforeValidator(_nanos)]
Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
ModelKey = Annotated[str, AfterValidator(lambda value: parse_key(value) if value else "")]
InstrumentId = Annotated[str, AfterValidator(parse_instrument)]
TopicPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=200)]


class Frozen(BaseModel):
    """A value: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
