"""The fields that settings are made of: durations, instruments, addresses, and the frozen value that holds them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from domain.events import NANOS_PER_SECOND

INSTRUMENT_PATTERN = re.compile(r"^[a-z0-9_]+:[A-Z0-9][A-Z0-9._-]*\Z")
_UNITS = {"ms": 1_000_000, "s": NANOS_PER_SECOND, "m": 60 * NANOS_PER_SECOND, "h": 3600 * NANOS_PER_SECOND}
_UNITS["d"] = 24 * _UNITS["h"]


def parse_duration(value: object) -> int:
    """Return nanoseconds from ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"7d"`` or an int of nanoseconds.

    >>> parse_duration("5m") // NANOS_PER_SECOND
    300

    Raises
    ------
    ValueError
        When the text is not a number and a unit, or is not positive.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(value).strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit, such as 30s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def parse_instrument(value: str) -> str:
    """Return the instrument as it is, or say how one is written.

    Raises
    ------
    ValueError
        When it is not ``venue:SYMBOL``.
    """
    if not INSTRUMENT_PATTERN.match(value):
        raise ValueError(f"{value!r} is not an instrument; write BTC-USDT, or with its venue binance:BTC-USDT")
    return value


def with_driver(url: str) -> str:
    """Return a database's URL with the one PostgreSQL driver that Tidemill and Dagster share.

    >>> with_driver("postgresql://mill@db/mill")
    'postgresql+psycopg2://mill@db/mill'
    """
    scheme, rest = url.partition("://")[::2]
    return f"postgresql+psycopg2://{rest}" if scheme in {"postgres", "postgresql"} else url


def parse_postgresql(url: str) -> str:
    """Return a PostgreSQL URL with its driver, or nothing for none; the message repeats no password.

    Raises
    ------
    ValueError
        When it is of another database.
    """
    if url and not with_driver(url).startswith("postgresql+psycopg2://"):
        raise ValueError(
            f"{url.partition('://')[0]!r} is no PostgreSQL; write postgresql://user:password@host/database"
        )
    return with_driver(url)


Duration = Annotated[int, BeforeValidator(parse_duration)]
InstrumentId = Annotated[str, AfterValidator(parse_instrument)]
PostgresqlUrl = Annotated[str, AfterValidator(parse_postgresql)]
TopicPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=200)]


class Frozen(BaseModel):
    """A value: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
