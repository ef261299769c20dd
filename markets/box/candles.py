"""Candles as an exchange computes them: the exact sums of their trades."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.tables import Ints
from markets.box.tape import Booked, Tape, book

_WEEK = 7 * NANOS_PER_DAY
_MONDAY = 4 * NANOS_PER_DAY
"""The first Monday after the epoch, where weeks are counted from."""

_KEPT = 40
"""Days an instrument whose minutes stay computed, 140 kB each: a month and more."""


@dataclass(frozen=True)
class Candles:
    """Candles of one instrument in order, ``n`` rows, int64 all.

    Attributes
    ----------
    start : START of each interval, ns since epoch UTC
    open, high, low, close : in steps of 1e-8; in an interval without a trade all four are the close before
    volume, quote : of all trades; base and quote asset, in steps of 1e-8
    taker_volume, taker_quote : of those whose taker bought
    count : number of trades
    first_id, last_id : of the trades; -1 where there was none
    """

    start: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    quote: Ints
    taker_volume: Ints
    taker_quote: Ints
    count: Ints
    first_id: Ints
    last_id: Ints

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, start: int | None, stop: int | None) -> Candles:
        """Return some rows, as a slice would."""
        return Candles(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})


def opening(ts: int, interval: int) -> int:
    """Return where the interval that holds a time begins, ns.

    >>> opening(5 * NANOS_PER_MINUTE + 1, 5 * NANOS_PER_MINUTE) // NANOS_PER_MINUTE
    5
    """
    origin = _MONDAY if interval == _WEEK else 0
    return (ts - origin) // interval * interval + origin


def candles_of(trades: Booked, interval: int) -> Candles:
    """Return the candles of the intervals that have a trade."""
    bought = (trades.side > 0).astype(np.int64)
    single = Candles(
        start=trades.ts,
        open=trades.price,
        high=trades.price,
        low=trades.price,
        close=trades.price,
        volume=trades.size,
        quote=trades.quote,
        taker_volume=trades.size * bought,
        taker_quote=trades.quote * bought,
        count=np.ones(len(trades), np.int64),
        first_id=trades.trade_id,
        last_id=trades.trade_id,
    )
    return coarser(single, interval)


def coarser(candles: Candles, interval: int) -> Candles:
    """Return the candles of a longer interval, each of whole candles that had a trade."""
    if not len(candles):
        return candles
    origin = _MONDAY if interval == _WEEK else 0
    start = (candles.start - origin) // interval * interval + origin
    at = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
    last = np.append(at[1:], len(start)) - 1
    total = np.add.reduceat
    return Candles(
        start=start[at],
        open=candles.open[at],
        high=np.maximum.reduceat(candles.high, at),
        low=np.minimum.reduceat(candles.low, at),
        close=candles.close[last],
        volume=total(candles.volume, at),
        quote=total(candles.quote, at),
        taker_volume=total(candles.taker_volume, at),
        taker_quote=total(candles.taker_quote, at),
        count=total(candles.count, at),
        first_id=candles.first_id[at],
        last_id=candles.last_id[last],
    )


def filled(candles: Candles, interval: int, start: int, end: int, close: int | None) -> Candles:
    """Return a candle for each interval that begins in ``[start, end]``.

    Parameters
    ----------
    candles
        Those that had a trade.
    start, end : int
        Beginnings of intervals, ns.
    close : int or None
        The last price before ``start``; None where nothing had been traded: then it begins with the first candle.
    """
    if close is None:
        start = int(candles.start[0]) if len(candles) else end + 1
    starts = np.arange(start, end + 1, interval, dtype=np.int64)
    at = np.searchsorted(candles.start, starts, side="right") - 1  # the candle itself or the one before
    had = np.zeros(len(starts), np.bool_)
    had[np.searchsorted(starts, candles.start)] = True
    closes = np.append(candles.close, close or 0)[at]  # a place of -1 is the close before all of them

    def kept(column: Ints, otherwise: Ints | int) -> Ints:
        return np.where(had, np.append(column, 0)[at], otherwise)

    prices = {name: kept(getattr(candles, name), closes) for name in ("open", "high", "low", "close")}
    ids = {name: kept(getattr(candles, name), -1) for name in ("first_id", "last_id")}
    sums = ("volume", "quote", "taker_volume", "taker_quote", "count")
    return Candles(starts, **prices, **ids, **{name: kept(getattr(candles, name), 0) for name in sums})


class CandleBook:
    """The candles of a tape; minutes are computed once a day of the market and instrument, longer ones from them."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._minutes: OrderedDict[tuple[str, int], Candles] = OrderedDict()

    def between(self, instrument: str, interval: int, start: int, end: int, now: int) -> Candles:
        """Return the candles that begin in ``[start, end]`` and not after ``now``; the newest may still be open.

        Parameters
        ----------
        interval : int
            Seconds that divide a minute, minutes that divide a day, days, or a week; ns.
        """
        listed = self._tape.begins(instrument)
        start = max(opening(start - 1, interval) + interval, opening(listed, interval))
        end = opening(min(end, now), interval)
        if end < start:
            return candles_of(book([]), interval)
        parts = list(self._parts(instrument, interval, start, min(end + interval - 1, now), now))
        before = self._tape.newest(instrument, start - 1, 1)
        close = int(before.price[-1]) if len(before) else None
        return filled(coarser(_joined(parts), interval), interval, start, end, close)

    def _parts(self, instrument: str, interval: int, start: int, until: int, now: int) -> Iterator[Candles]:
        """Yield fine candles of ``[start, until]``, a day at a time."""
        for day in range(start // NANOS_PER_DAY, until // NANOS_PER_DAY + 1):
            midnight = (day + 1) * NANOS_PER_DAY
            if interval < NANOS_PER_MINUTE or midnight > now:
                trades = self._tape.day(instrument, day).since(start).until(until)
                yield candles_of(trades, min(interval, NANOS_PER_MINUTE))
                continue
            minutes = self._day(instrument, day)
            low, high = np.searchsorted(minutes.start, (start, until + 1)).tolist()
            yield minutes.rows(low, high)

    def _day(self, instrument: str, day: int) -> Candles:
        known = self._minutes.pop((instrument, day), None)
        if known is None:
            known = candles_of(self._tape.day(instrument, day), NANOS_PER_MINUTE)
            while len(self._minutes) >= _KEPT * len(self._tape.instruments):
                self._minutes.popitem(last=False)
        self._minutes[instrument, day] = known
        return known


def _joined(parts: Iterable[Candles]) -> Candles:
    parts = list(parts)
    return Candles(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Candles)})
