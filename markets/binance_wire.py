"""What Binance sends and archives: a trade of the stream, a trade and a candle of history, as written and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec
import numpy as np

from domain.bars import BAR_COLUMNS
from domain.errors import BadRecord
from domain.events import BUY, SELL
from domain.tables import BarTable, TradeTable

MS, US = 1_000_000, 1_000
"""Nanoseconds in the units of its times: milliseconds, and microseconds in archives of 2025 and later."""

UNITS = Decimal(10**8)
"""Sizes are whole numbers of 1e-8: differences are taken there, where they are exact."""


class TradeEvent(msgspec.Struct, gc=False):
    """A trade of the stream; ``X``, where there is one, says whether it happened on the market."""

    e: Literal["trade"]
    s: str
    t: int
    p: str
    q: str
    T: int
    m: bool
    X: str = "MARKET"


class TradeFrame(msgspec.Struct, gc=False):
    """A frame of the combined stream that holds a trade; any other frame does not decode as this."""

    data: TradeEvent


class Kline(msgspec.Struct, array_like=True, gc=False):
    """A candle of history; what of its volume takers bought is ``bought``."""

    opened: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    closed: int
    quote: str
    trades: int
    bought: str


class PastTrade(msgspec.Struct, gc=False):
    """A trade of history."""

    id: int
    price: str
    qty: str
    time: int
    isBuyerMaker: bool  # noqa: N815 - the exchange's name


class _Event(msgspec.Struct, gc=False):
    e: str = ""


class _Other(msgspec.Struct, gc=False):
    """What any frame has: enough to tell what it was meant to be."""

    stream: str = ""
    e: str = ""
    data: _Event | list[object] | str | float | bool | None = None
    error: object = None


def meaning(frame: str | bytes) -> str:
    """Return the event that a frame which is no sound trade was meant to be: ``trade`` for a spoiled one, "" for noise.

    >>> meaning('{"result":null,"id":1}'), meaning('{"data":{"e":"trade","p":1}}'), meaning("<html>")
    ('other', 'trade', '')
    """
    try:
        other = msgspec.json.decode(frame, type=_Other)
    except msgspec.MsgspecError:
        return ""
    if other.error is not None:
        return "error"
    if other.stream.endswith("@trade"):
        return "trade"
    return (other.data.e if isinstance(other.data, _Event) else other.e) or "other"


def candle_table(rows: Sequence[Kline], unit: int, interval: int) -> BarTable:
    """Return candles as bars.

    Parameters
    ----------
    rows : n candles, in order
    unit, interval : int
        Nanoseconds: one unit of their times, and the length of a candle.

    Raises
    ------
    BadRecord
        When a number is none.

    Notes
    -----
    A bar of the same trades is the same to the bit, its ``vwap`` where price times size has no more than 8 decimals: a
    decimal text becomes the nearest float64, and what takers sold is subtracted in whole units of 1e-8, then divided.
    """
    values = np.empty((len(rows), len(BAR_COLUMNS)), np.float64)
    for at, row in enumerate(rows):
        try:
            close, volume = float(row.close), float(row.volume)
            sold = round(Decimal(row.volume) * UNITS) - round(Decimal(row.bought) * UNITS)
            values[at] = (
                float(row.open), float(row.high), float(row.low), close, volume, float(row.bought), sold / 10**8,
                float(row.quote) / volume if volume > 0.0 else close, row.trades, row.trades == 0,
            )  # fmt: skip
        except (ValueError, ArithmeticError) as error:
            raise BadRecord("schema", f"the candle opened at {row.opened} cannot be read: {error}") from error
    return BarTable(np.array([row.opened for row in rows], np.int64) * unit + interval, values)


def trade_table(rows: Sequence[PastTrade]) -> TradeTable:
    """Return trades of history, their times in ms.

    Raises
    ------
    BadRecord
        When a number is none.
    """
    try:
        return TradeTable(
            ts=np.array([row.time for row in rows], np.int64) * MS,
            trade_id=np.array([row.id for row in rows], np.int64),
            price=np.array([float(row.price) for row in rows], np.float64),
            size=np.array([float(row.qty) for row in rows], np.float64),
            # The buyer was the maker: the taker sold.
            side=np.array([SELL if row.isBuyerMaker else BUY for row in rows], np.int8),
        )
    except ValueError as error:
        raise BadRecord("schema", f"a trade from {rows[0].id} on cannot be read: {error}") from error
