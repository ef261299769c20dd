"""How trades and candles become bars: event time, a watermark, and empty intervals filled forward and flagged.

The step reads and writes two plain arrays of state per instrument, so that the stream (a few trades a call) and the
backfill (a day a call) run the same compiled lines. A bar is closed once the watermark, the newest event time less
the allowed lateness, has passed its end; what arrives for a closed bar is late and refused.

Sizes are summed as exchanges do, in whole units of 1e-8: the sum is exact and the same in any order of arrival, so a
bar built from trades equals the exchange's own candle bit for bit.

A jump over more than ``MAX_FILL`` empty intervals is a wrong clock, until ``CONFIRM`` events in a row that span an
interval say otherwise: then the market has really resumed. The bars are filled to ``MAX_FILL``, a hole follows, and
they open anew at the event that settled it. The events that only voted are refused. A vector needs ``WINDOW``
contiguous bars, so none looks across the hole, and no target reaches over it. The votes are part of the state, and a
bar's place is measured from the newest bar with an event, so that batch and stream agree about it to the bit.
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

CONFIRM = 10
"""Events in a row beyond ``MAX_FILL`` that make the jump believed: a market that resumes trades again at once."""

TAKEN, LATE, OFF_GRID, AHEAD, REPEATED = range(5)
"""What became of an event: counted; its bar is closed; no multiple of the interval; too far ahead; counted before."""

UNITS = 1e8
"""Units in one of an asset, or of its money: no exchange trades a finer part."""

SEEN = 4_096
"""Trades remembered by id, each at its id modulo this: ids count up, so these are about the newest ones."""

# Layout of the integer state: the index of the next bar to close (0 = nothing seen), the index of the newest bar with
# an event, how many events in a row voted for a time far ahead with the first and the newest of these times, then the
# ids seen, then per open bar the time and id of its first and last trade. Of the float state: the last close, then per
# open bar the ten columns of a bar, where until it closes volumes, and in VWAP the sum of price times size, are counted
# in units: whole numbers, which float64 adds without error up to 2**53 (90 million of the asset or of its money a bar).
_NEXT, _NEWEST, _VOTES, _SINCE, _UNTIL, _IDS = range(6)
_FIXED = _IDS + SEEN
_KEYS, _HEAD = 4, 1
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
        state = cls(np.zeros(_FIXED + _KEYS * slots, np.int64), np.zeros(_HEAD + _WIDTH * slots, np.float64))
        state.ints[_IDS:_FIXED] = -1
        return state

    @classmethod
    def after(cls, ts: int, close: float, interval: int, lateness: int, newest: int | None = None) -> BarState:
        """Return the state just after the bar that ended at ``ts`` with this close was closed.

        ``newest`` is the end of the newest bar with an event, where that is not this one.
        """
        state = cls.empty(interval, lateness)
        state.ints[_NEXT] = ts // interval + 1
        state.ints[_NEWEST] = (ts if newest is None else newest) // interval
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
    slots = (len(ints) - _FIXED) // _KEYS
    while ints[_NEXT] * interval <= until:
        index = ints[_NEXT]
        at = _HEAD + (index % slots) * _WIDTH
        bar = floats[at : at + _WIDTH]
        if bar[TRADES] > 0.0:
            values[m, :] = bar
            for column in (VOLUME, BUY, SELL, VWAP):
                values[m, column] /= UNITS
            values[m, VWAP] = values[m, VWAP] / values[m, VOLUME] if bar[VOLUME] > 0.0 else bar[CLOSE]
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
    slots = (len(ints) - _FIXED) // _KEYS
    key = _FIXED + (index % slots) * _KEYS
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
    units = np.rint(size * UNITS)
    bar[VOLUME] += units
    if side > 0:
        bar[BUY] += units
    elif side < 0:
        bar[SELL] += units
    bar[VWAP] += np.rint(price * size * UNITS)
    bar[TRADES] += 1.0


@njit(cache=True)
def _is_resumed(ints: Ints, ts: int, interval: int, lateness: int) -> bool:
    """Count the vote of an event that is too far ahead; return whether it settles that the market has resumed."""
    stray = ts < ints[_UNTIL] - lateness or ts - ints[_UNTIL] > MAX_FILL * interval
    if ints[_VOTES] == 0 or stray:
        ints[_VOTES], ints[_SINCE], ints[_UNTIL] = 0, ts, ts
    ints[_VOTES] += 1
    ints[_UNTIL] = max(ints[_UNTIL], ts)
    return bool(ints[_VOTES] >= CONFIRM and ints[_UNTIL] - ints[_SINCE] >= interval)


@njit(cache=True)
def _sort_trades(ints: Ints, trade_ts: Ints, trade_id: Ints, interval: int, lateness: int) -> tuple[Ints, Flags, int]:
    """Return what becomes of each trade, which of them open the bars anew, and how many bars they close in all.

    Of ``ints`` only the votes and the ids seen are changed.
    """
    n = len(trade_ts)
    fates, opens, room = np.zeros(n, np.int64), np.zeros(n, np.bool_), 0
    following, newest = ints[_NEXT], ints[_NEWEST]
    for i in range(n):
        index = trade_ts[i] // interval + 1
        if following == 0:
            following = newest = index
        if index < following:
            fates[i] = LATE
            continue
        seen = _IDS + trade_id[i] % SEEN
        if ints[seen] == trade_id[i]:
            fates[i] = REPEATED
            continue
        if index - newest - 1 > MAX_FILL:
            if not _is_resumed(ints, trade_ts[i], interval, lateness):
                fates[i] = AHEAD
                continue
            room += newest + MAX_FILL + 1 - following
            opens[i], following, newest = True, index, index
        ints[_VOTES], ints[seen] = 0, trade_id[i]
        newest = max(newest, index)
        closed = max(following, (trade_ts[i] - lateness) // interval + 1)
        room += closed - following
        following = closed
    return fates, opens, room


@njit(cache=True)
def _step_trades(ints: Ints, floats: Floats, trade_ts: Ints, trade_id: Ints, price: Floats, size: Floats, side: Sides,
                 interval: int, lateness: int) -> tuple[Ints, Floats, Ints]:  # fmt: skip
    fates, opens, room = _sort_trades(ints, trade_ts, trade_id, interval, lateness)
    ts, values, m = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64), 0  # exact: unchecked writes follow
    for i in range(len(trade_ts)):
        if fates[i] != TAKEN:
            continue
        index = trade_ts[i] // interval + 1
        if opens[i]:
            m = _close_bars(ints, floats, (ints[_NEWEST] + MAX_FILL) * interval, interval, ts, values, m)
        if opens[i] or ints[_NEXT] == 0:
            ints[_NEXT] = ints[_NEWEST] = index
            floats[0] = price[i]
        m = _close_bars(ints, floats, trade_ts[i] - lateness, interval, ts, values, m)
        _add_trade(ints, floats, trade_ts[i], trade_id[i], price[i], size[i], side[i], interval)
        ints[_NEWEST] = max(ints[_NEWEST], index)
    return ts, values, fates


@njit(cache=True)
def _sort_candles(ints: Ints, bar_ts: Ints, interval: int) -> tuple[Ints, Flags, int]:
    """As :func:`_sort_trades`, for candles."""
    n = len(bar_ts)
    fates, opens, room = np.zeros(n, np.int64), np.zeros(n, np.bool_), 0
    following, newest = ints[_NEXT], ints[_NEWEST]
    for i in range(n):
        index = bar_ts[i] // interval
        if bar_ts[i] % interval != 0:
            fates[i] = OFF_GRID
            continue
        if following == 0:
            following = newest = index
        if index < following:
            fates[i] = LATE
            continue
        if index - newest - 1 > MAX_FILL:
            if not _is_resumed(ints, bar_ts[i], interval, 0):
                fates[i] = AHEAD
                continue
            room += newest + MAX_FILL + 1 - following
            opens[i], following = True, index
        ints[_VOTES] = 0
        room += index + 1 - following
        following, newest = index + 1, index
    return fates, opens, room


@njit(cache=True)
def _step_candles(ints: Ints, floats: Floats, bar_ts: Ints, bars: Floats, interval: int) -> tuple[Ints, Floats, Ints]:
    fates, opens, room = _sort_candles(ints, bar_ts, interval)
    ts, values, m = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64), 0
    for i in range(len(bar_ts)):
        if fates[i] != TAKEN:
            continue
        index = bar_ts[i] // interval
        if opens[i]:
            m = _close_bars(ints, floats, (ints[_NEWEST] + MAX_FILL) * interval, interval, ts, values, m)
        if opens[i] or ints[_NEXT] == 0:
            ints[_NEXT] = index
        m = _close_bars(ints, floats, (index - 1) * interval, interval, ts, values, m)
        ts[m], values[m, :] = bar_ts[i], bars[i]
        floats[0] = bars[i, CLOSE]
        ints[_NEXT], ints[_NEWEST] = index + 1, index
        m += 1
    return ts, values, fates


def add_trades(state: BarState, trades: TradeTable, interval: int, lateness: int) -> tuple[BarTable, Ints]:
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
    bars : gap-filled: each one interval after the one before, or the first after a hole
    fates : int64[n]
        ``TAKEN`` (0) where a trade counts; ``LATE``, ``AHEAD`` or ``REPEATED`` where it is refused.
    """
    ts, values, fates = _step_trades(
        state.ints, state.floats, trades.ts, trades.trade_id, trades.price, trades.size, trades.side, interval, lateness
    )
    return BarTable(ts, values), fates


def add_candles(state: BarState, candles: BarTable, interval: int) -> tuple[BarTable, Ints]:
    """Fill the gaps between candles; the same contract as ``add_trades``, without lateness.

    A candle that is not newer than the last is ``LATE``, one that is off the grid ``OFF_GRID``.
    """
    ts, values, fates = _step_candles(state.ints, state.floats, candles.ts, candles.values, interval)
    return BarTable(ts, values), fates


def close_until(state: BarState, until: int, interval: int) -> BarTable:
    """Close every bar that ends at or before ``until``: history before it is complete and no trade is on its way.

    Not more than ``MAX_FILL`` empty ones: what lies behind them is filled or left open when the next event comes.
    """
    until = min(until, (int(state.ints[_NEWEST]) + MAX_FILL) * interval)
    room = max(0, until // interval - int(state.ints[_NEXT]) + 1) if state.started else 0
    ts, values = np.empty(room, np.int64), np.empty((room, _WIDTH), np.float64)
    if room:
        _close_bars(state.ints, state.floats, until, interval, ts, values, 0)
    return BarTable(ts, values)
