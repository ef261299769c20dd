"""How trades and candles become bars: event time, a watermark, and empty intervals filled forward and flagged.

The step reads and writes two plain arrays of state per instrument, so that the stream (a few trades a call) and the
backfill (a day a call) run the same compiled lines. A bar is closed once the watermark, the newest event time less
the allowed lateness, has passed its end; what arrives for a closed bar is late and refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from domain.tables import BarTable, Flags, Floats, Ints, Sides, TradeTable

BAR_COLUMNS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "buy_volume",
    "sell_volume",
    "vwap",
    "trades",
    "missing",
)
OPEN, HIGH, LOW, CLOSE, VOLUME, BUY, SELL, VWAP, TRADES, MISSING = range(10)

MAX_FILL = 10_080
"""Longest run of empty intervals that is filled, in bars: a week of minutes. A longer jump is a wrong clock."""

# Layout of the integer state: the index of the next bar to close (0 = nothing seen), then per open bar the time and
# id of its first and last trade. Of the float state: the last close, then per open bar the ten columns of a bar,
# where VWAP holds the sum of price times size until the bar closes.
_NEXT, _KEYS, _HEAD = 0, 4, 1
_WIDTH = len(BAR_COLUMNS)


@dataclass(frozen=True)
class BarState:
    """State of one instrument's bar builder: what a checkpoint holds."""

    ints: Ints
    floats: Floats

    @classmethod
    def empty(cls, interval: int, lateness: int) -> BarState:
        """Return the state before the first event.

        Parameters
        ----------
        interval, lateness : int
            Nanoseconds. More lateness keeps more bars open at once.
        """
        slots = lateness // interval + 2
        return cls(np.zeros(1 + _KEYS * slots, np.int64), np.zeros(_HEAD + _WIDTH * slots, np.float64))

    @classmethod
    def after(cls, ts: int, close: float, interval: int, lateness: int) -> BarState:
        """Return the state just after the bar that ended at ``ts`` with this close was closed."""
        state = cls.empty(interval, lateness)
        state.ints[_NEXT] = ts // interval + 1
        state.floats[0] = close
        return state

    def copy(self) -> BarState:
        """Return an independent copy."""
        return BarState(self.ints.copy(), self.floats.copy())

    @property
    def started(self) -> bool:
        """Whether any event was seen."""
        return bool(self.ints[_NEXT] > 0)


@njit(cache=True)
def _fill(close: float, row: Floats) -> None:
    row[:] = 0.0
    row[OPEN] = row[HIGH] = row[LOW] = row[CLOSE] = row[VWAP] = close
    row[MISSING] = 1.0


@njit(cache=True)
def _close_bars(ints: Ints, floats: Floats, until: int, interval: int, ts: Ints, values: Floats, m: int) -> int:
    """Close every bar that ends at or before ``until``; return how many rows are written by now."""
    slots = (len(ints) - 1) // _KEYS
    while ints[_NEXT] * interval <= until:
        index = ints[_NEXT]
        at = _HEAD + (index % slots) * _WIDTH
        bar = floats[at : at + _WIDTH]
        if bar[TRADES] > 0.0:
            values[m, :] = bar
            values[m, VWAP] = bar[VWAP] / bar[VOLUME] if bar[VOLUME] > 0.0 else bar[CLOSE]
            floats[0] = bar[CLOSE]
            bar[:] = 0.0
        else:
            _fill(floats[0], values[m])
        ts[m] = index * interval
        ints[_NEXT] = index + 1
        m += 1
    return m


@njit(cache=True)
def _add_trade(ints: Ints, floats: Floats, ts: int, trade_id: int, price: float, size: float, side: int,
               interval: int) -> None:  # fmt: skip
    index = ts // interval + 1
    slots = (len(ints) - 1) // _KEYS
    key = 1 + (index % slots) * _KEYS
    at = _HEAD + (index % slots) * _WIDTH
    bar = floats[at : at + _WIDTH]
    if bar[TRADES] == 0.0:
        bar[OPEN] = bar[HIGH] = bar[LOW] = bar[CLOSE] = price
        ints[key] = ints[key + 2] = ts
        ints[key + 1] = ints[key + 3] = trade_id
    else:
        # The first and the last trade are the exchange's, not those that happened to arrive first and last.
        if ts < ints[key] or (ts == ints[key] and trade_id < ints[key + 1]):
            bar[OPEN], ints[key], ints[key + 1] = price, ts, trade_id
        if ts > ints[key + 2] or (ts == ints[key + 2] and trade_id > ints[key + 3]):
            bar[CLOSE], ints[key + 2], ints[key + 3] = price, ts, trade_id
        bar[HIGH] = max(bar[HIGH], price)
        bar[LOW] = min(bar[LOW], price)
    bar[VOLUME] += size
    if side > 0:
        bar[BUY] += size
    elif side < 0:
        bar[SELL] += size
    bar[VWAP] += price * size
    bar[TRADES] += 1.0


@njit(cache=True)
def _step_trades(ints: Ints, floats: Floats, trade_ts: Ints, trade_id: Ints, price: Floats, size: Floats, side: Sides,
                 interval: int, lateness: int) -> tuple[Ints, Floats, Flags]:  # fmt: skip
    n = len(trade_ts)
    refused = np.zeros(n, np.bool_)
    if n == 0:
        return np.empty(0, np.int64), np.empty((0, _WIDTH), np.float64), refused
    if ints[_NEXT] == 0:
        ints[_NEXT] = trade_ts[0] // interval + 1
        floats[0] = price[0]
    index = ints[_NEXT]
    for i in range(n):
        if trade_ts[i] // interval + 1 < index or trade_ts[i] - index * interval > MAX_FILL * interval:
            refused[i] = True
        else:
            index = max(index, (trade_ts[i] - lateness) // interval + 1)
    room = index - ints[_NEXT]  # exact: unchecked writes follow
    ts, values, m = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64), 0
    for i in range(n):
        if refused[i]:
            continue
        m = _close_bars(ints, floats, trade_ts[i] - lateness, interval, ts, values, m)
        _add_trade(ints, floats, trade_ts[i], trade_id[i], price[i], size[i], side[i], interval)
    return ts, values, refused


@njit(cache=True)
def _step_candles(ints: Ints, floats: Floats, bar_ts: Ints, bars: Floats, interval: int) -> tuple[Ints, Floats, Flags]:
    n = len(bar_ts)
    refused = np.zeros(n, np.bool_)
    room, index = 0, ints[_NEXT]
    for i in range(n):
        if index == 0:
            index = bar_ts[i] // interval
        gap = bar_ts[i] // interval - index
        if 0 <= gap <= MAX_FILL and bar_ts[i] % interval == 0:
            room += gap + 1
            index = bar_ts[i] // interval + 1
        else:
            refused[i] = True
    ts, values, m = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64), 0
    for i in range(n):
        if refused[i]:
            continue
        index = bar_ts[i] // interval
        if ints[_NEXT] == 0:
            ints[_NEXT] = index
        while ints[_NEXT] < index:
            _fill(floats[0], values[m])
            ts[m] = ints[_NEXT] * interval
            ints[_NEXT] += 1
            m += 1
        ts[m], values[m, :] = bar_ts[i], bars[i]
        floats[0] = bars[i, CLOSE]
        ints[_NEXT] = index + 1
        m += 1
    return ts, values, refused


def add_trades(state: BarState, trades: TradeTable, interval: int, lateness: int) -> tuple[BarTable, Flags]:
    """Add trades in order of arrival and return the bars that they closed.

    Parameters
    ----------
    state
        Changed in place.
    trades : n rows
    interval, lateness : int
        Nanoseconds; the same for the life of a state.

    Returns
    -------
    bars : gap-filled, each one interval after the one before
    refused : bool[n]
        True where a trade came after its bar was closed, or more than ``MAX_FILL`` intervals ahead.
    """
    ts, values, refused = _step_trades(
        state.ints, state.floats, trades.ts, trades.trade_id, trades.price, trades.size, trades.side, interval, lateness
    )
    return BarTable(ts, values), refused


def add_candles(state: BarState, candles: BarTable, interval: int) -> tuple[BarTable, Flags]:
    """Fill the gaps between candles; the same contract as ``add_trades``, without lateness.

    A candle that is not newer than the last, off the grid or more than ``MAX_FILL`` intervals ahead is refused.
    """
    ts, values, refused = _step_candles(state.ints, state.floats, candles.ts, candles.values, interval)
    return BarTable(ts, values), refused


def close_until(state: BarState, until: int, interval: int) -> BarTable:
    """Close every bar that ends at or before ``until``: history before it is complete and no trade is on its way."""
    room = max(0, until // interval - int(state.ints[_NEXT]) + 1) if state.started else 0
    ts, values = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64)
    if room:
        _close_bars(state.ints, state.floats, until, interval, ts, values, 0)
    return BarTable(ts, values)
