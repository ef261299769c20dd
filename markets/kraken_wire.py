"""What Kraken sends: a trade of the stream, a trade and a candle of history, as written and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
import numpy as np

from domain.bars import BAR_COLUMNS
from domain.errors import BadRecord
from domain.events import BUY, NANOS_PER_SECOND, SELL
from domain.tables import BarTable, TradeTable

US = 1_000

_POWERS = (10**9, 10**8, 10**7, 10**6, 10**5, 10**4, 10**3, 10**2, 10, 1)
"""Nanoseconds in the last place of a fraction of a second with this many digits."""


class TradeEvent(msgspec.Struct, gc=False):
    """A trade of the stream (version 2)."""

    symbol: str
    side: Literal["buy", "sell"]
    price: float
    qty: float
    trade_id: int
    timestamp: str


class TradeFrame(msgspec.Struct, gc=False):
    """A frame of new trades, of one or of several symbols; any other frame does not decode as this."""

    channel: Literal["trade"]
    type: Literal["update"]
    data: list[TradeEvent]


class OtherFrame(msgspec.Struct):
    """What any frame has: enough to tell what it was meant to be."""

    channel: str = ""
    type: str = ""
    error: str | None = None


class _Condition(msgspec.Struct):
    system: str


class StatusFrame(msgspec.Struct):
    """How the exchange says it is, on connecting and at every change."""

    data: list[_Condition]


class PastTrade(msgspec.Struct, array_like=True, gc=False):
    """A trade of history; its time is kept as text, for as a float64 it would lose its last digits."""

    price: str
    qty: str
    time: msgspec.Raw
    side: Literal["b", "s"]
    order: str
    misc: str
    trade_id: int


class Candle(msgspec.Struct, array_like=True, gc=False):
    """A candle of history, opened at a second."""

    opened: int
    open: str
    high: str
    low: str
    close: str
    vwap: str
    volume: str
    trades: int


class Answer(msgspec.Struct):
    """What every request is answered with."""

    error: list[str]
    result: msgspec.Raw = msgspec.Raw(b"null")


class Stamps:
    """Reads the stream's times; it remembers the second, which the trades of a burst share.

    Examples
    --------
    >>> read = Stamps().read
    >>> read("1970-01-01T00:00:01.000000001Z"), read("1970-01-01T00:00:01.5Z"), read("1970-01-02T00:00:00Z")
    (1000000001, 1500000000, 86400000000000)
    """

    def __init__(self) -> None:
        self._text, self._ns = "", 0

    def read(self, text: str) -> int:
        """Return a time of RFC 3339 in UTC as ns since epoch; digits beyond the ninth are cut off.

        Raises
        ------
        ValueError
            When it is none.
        """
        second, fraction = text[:19], text[20:-1]
        if second != self._text:
            self._ns = int(datetime.fromisoformat(f"{second}+00:00").timestamp()) * NANOS_PER_SECOND
            self._text = second
        if text[19:] == "Z":
            return self._ns
        if text[19:20] != "." or text[-1] != "Z" or not fraction.isdecimal():
            raise ValueError(f"{text!r} is no time in UTC")
        return self._ns + _nanos(fraction)


def nanos_of(text: str) -> int:
    """Return seconds since epoch, written as a decimal, as ns; digits beyond the ninth are cut off.

    >>> nanos_of("1688669597.8277369"), nanos_of("1688669602")
    (1688669597827736900, 1688669602000000000)

    Raises
    ------
    ValueError
        When it is no such number.
    """
    seconds, point, fraction = text.partition(".")
    if not seconds.isdecimal() or (point and not fraction.isdecimal()):
        raise ValueError(f"{text!r} is no time in seconds")
    return int(seconds) * NANOS_PER_SECOND + (_nanos(fraction) if point else 0)


def trade_table(rows: Sequence[PastTrade]) -> TradeTable:
    """Return trades of history, in order of their ids, at the microsecond at which the stream shows them.

    Requests tell more digits, and trades of one order share a time: with them, one that was asked for would seem later
    than the next one, which was streamed.

    Raises
    ------
    BadRecord
        When a number is none.
    """
    rows = sorted(rows, key=lambda row: row.trade_id)
    try:
        return TradeTable(
            ts=np.array([nanos_of(bytes(row.time).decode()) // US * US for row in rows], np.int64),
            trade_id=np.array([row.trade_id for row in rows], np.int64),
            price=np.array([float(row.price) for row in rows], np.float64),
            size=np.array([float(row.qty) for row in rows], np.float64),
            side=np.array([BUY if row.side == "b" else SELL for row in rows], np.int8),
        )
    except ValueError as error:
        raise BadRecord("schema", f"a trade from {rows[0].trade_id} on cannot be read: {error}") from error


def candle_table(rows: Sequence[Candle], interval: int) -> BarTable:
    """Return candles of a length in ns as bars; what takers bought and sold is 0, for they do not tell.

    Raises
    ------
    BadRecord
        When a number is none.
    """
    values = np.empty((len(rows), len(BAR_COLUMNS)), np.float64)
    for at, row in enumerate(rows):
        try:
            close, volume = float(row.close), float(row.volume)
            values[at] = (
                float(row.open), float(row.high), float(row.low), close, volume, 0.0, 0.0,
                float(row.vwap) if volume > 0.0 else close, row.trades, row.trades == 0,
            )  # fmt: skip
        except ValueError as error:
            raise BadRecord("schema", f"the candle opened at {row.opened} cannot be read: {error}") from error
    return BarTable(np.array([row.opened for row in rows], np.int64) * NANOS_PER_SECOND + interval, values)


def _nanos(fraction: str) -> int:
    """Return the ns that the digits behind the point of a second mean."""
    digits = fraction[:9]
    return int(digits) * _POWERS[len(digits)]
