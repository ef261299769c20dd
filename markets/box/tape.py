"""What was traded, as an exchange books it: whole numbers of 1e-8, found by time, by id, or newest first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from typing import cast

import numpy as np

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY
from domain.tables import Ints, TradeTable
from markets.source import Source

UNIT = 100_000_000
"""Steps in one unit of any asset: exchanges book eight decimals."""

_KEPT = 3
"""Days an instrument whose trades stay decoded: today, yesterday, and one that somebody pages through."""

_MOST_AT_ONCE = 1_000_000
"""More trades than ever happen at the same nanosecond."""

_LARGEST = 1 << 60
"""What a day may turn over, in steps: a week of it still fits 64 bits."""


@dataclass(frozen=True)
class Booked:
    """Trades of one instrument in order of time, ``n`` rows, int64 all.

    Attributes
    ----------
    ts, trade_id : as in ``TradeTable``
    price, size, quote : in steps of 1e-8; ``quote`` is ``price * size``, rounded down to a step
    side : the taker's: 1 bought, -1 sold
    cursor : ``ts``, and a nanosecond more for each trade before it at the same time: unique, and in order
    """

    ts: Ints
    trade_id: Ints
    price: Ints
    size: Ints
    quote: Ints
    side: Ints
    cursor: Ints

    def __len__(self) -> int:
        return len(self.ts)

    def rows(self, start: int | None, stop: int | None) -> Booked:
        """Return some rows, as a slice would."""
        return Booked(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def since(self, ts: int) -> Booked:
        """Return the rows at this time or later."""
        return self.rows(int(np.searchsorted(self.ts, ts)), None)

    def until(self, ts: int) -> Booked:
        """Return the rows at this time or earlier."""
        return self.rows(0, int(np.searchsorted(self.ts, ts, side="right")))


def book(tables: Iterable[TradeTable]) -> Booked:
    """Return trades as an exchange books them.

    Raises
    ------
    UsageError
        When eight decimals in 64 bits do not hold what they turn over.

    Notes
    -----
    A float that was read from a decimal of up to eight places becomes that decimal again, so that whoever parses the
    exchange's text has the very float the source had.
    """
    parts, names = list(tables), ("ts", "trade_id", "price", "size", "side")
    ts, trade_id, price, size, side = (
        np.concatenate([getattr(part, name) for part in parts]) if parts else np.empty(0) for name in names
    )
    if np.sum(size * np.maximum(price, 1.0)) > _LARGEST / UNIT or np.max(price, initial=0) > _LARGEST / UNIT:
        raise UsageError("more is traded in a day than an exchange can book; give prices or sizes in larger units")
    times, prices, sizes = ts.astype(np.int64), _steps(price), _steps(size)
    order = np.arange(len(times), dtype=np.int64)
    return Booked(
        ts=times,
        trade_id=trade_id.astype(np.int64),
        price=prices,
        size=sizes,
        quote=_product(prices, sizes),
        side=side.astype(np.int64),
        cursor=np.maximum.accumulate(times - order) + order,
    )


class Tape:
    """The trades of a source, of all of its history and future; who may know which is the asker's business.

    Parameters
    ----------
    source
        Of trades.

    Raises
    ------
    UsageError
        When it has candles instead.
    """

    def __init__(self, source: Source) -> None:
        if source.kind != "trades":
            raise UsageError("an exchange is made of trades, and these are candles; give a file of trades or frames")
        self.instruments = source.instruments
        self._source = source
        self._days: OrderedDict[tuple[str, int], Booked] = OrderedDict()
        self._ids: dict[tuple[str, int], tuple[int, int] | None] = {}

    def begins(self, instrument: str) -> int:
        """Return when the instrument was listed, ns: nothing is known before."""
        return self._source.span(instrument)[0]

    @property
    def ends(self) -> int | None:
        """When the last trade of all happens, ns; None where the market goes on for ever."""
        if self._source.simulated:
            return None
        return max(self._source.span(instrument)[1] for instrument in self.instruments)

    def day(self, instrument: str, day: int) -> Booked:
        """Return all trades of a UTC day, counted from 1970."""
        known = self._days.pop((instrument, day), None)
        if known is None:
            start = max(day * NANOS_PER_DAY, self.begins(instrument))
            tables = self._source.history(instrument, start, (day + 1) * NANOS_PER_DAY)
            known = book(cast("Iterator[TradeTable]", tables))
            ids = known.trade_id
            self._ids[instrument, day] = (int(ids[0]), int(ids[-1])) if len(ids) else None
            while len(self._days) >= _KEPT * len(self.instruments):
                self._days.popitem(last=False)
        self._days[instrument, day] = known
        return known

    def forward(self, instrument: str, start: int, until: int) -> Iterator[Booked]:
        """Yield the trades with ``start <= ts <= until``, a day at a time."""
        start = max(start, self.begins(instrument))
        for day in range(start // NANOS_PER_DAY, until // NANOS_PER_DAY + 1):
            if len(found := self.day(instrument, day).since(start).until(until)):
                yield found

    def backward(self, instrument: str, until: int) -> Iterator[Booked]:
        """Yield the trades with ``ts <= until``, the newest day first, each day in order."""
        for day in range(until // NANOS_PER_DAY, self.begins(instrument) // NANOS_PER_DAY - 1, -1):
            if len(found := self.day(instrument, day).until(until)):
                yield found

    def first(self, instrument: str, start: int, until: int, n: int) -> Booked:
        """Return the first ``n`` trades with ``start <= ts <= until``."""
        return _joined(_enough(self.forward(instrument, start, until), n)).rows(0, n)

    def after(self, instrument: str, cursor: int, until: int, n: int) -> Booked:
        """Return the first ``n`` trades whose cursor is larger, with ``ts <= until``."""
        # Trades at one time differ by nanoseconds of their cursors, and there are never a million at one time.
        days = self.forward(instrument, cursor - _MOST_AT_ONCE, until)
        later = (day.rows(int(np.searchsorted(day.cursor, cursor, side="right")), None) for day in days)
        return _joined(_enough(later, n)).rows(0, n)

    def newest(self, instrument: str, until: int, n: int) -> Booked:
        """Return the last ``n`` trades with ``ts <= until``."""
        return _joined(reversed(list(_enough(self.backward(instrument, until), n)))).rows(-n, None)

    def from_id(self, instrument: str, trade_id: int, until: int, n: int) -> Booked:
        """Return the first ``n`` trades whose id is at least this, with ``ts <= until``."""
        low, high = self.begins(instrument) // NANOS_PER_DAY, until // NANOS_PER_DAY
        while low < high:  # the day whose last id is the first to reach it
            middle = (low + high) // 2
            if self._last_id(instrument, middle, low) < trade_id:
                low = middle + 1
            else:
                high = middle
        days = self.forward(instrument, low * NANOS_PER_DAY, until)
        today = next(days, None)
        if today is None:
            return book([])
        today = today.rows(int(np.searchsorted(today.trade_id, trade_id)), None)
        return _joined(_enough(chain([today], days), n)).rows(0, n)

    def _last_id(self, instrument: str, day: int, first: int) -> int:
        """Return the last id of a day, or, where it has no trades, of the newest before it."""
        for earlier in range(day, first - 1, -1):
            if (instrument, earlier) not in self._ids:
                self.day(instrument, earlier)
            ids = self._ids[instrument, earlier]
            if ids is not None:
                return ids[1]
        return -1


def _steps(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ints:
    """Return decimals as whole steps; what is less than one is one, for nothing trades at nothing."""
    return np.maximum(np.rint(values * UNIT).astype(np.int64), 1)


def _product(price: Ints, size: Ints) -> Ints:
    """Return ``price * size`` in steps, rounded down, without ever leaving 64 bits: the parts are multiplied apart."""
    (units, rest), (whole, part) = np.divmod(price, UNIT), np.divmod(size, UNIT)
    product: Ints = units * size + rest * whole + rest * part // UNIT
    return product


def _enough(parts: Iterable[Booked], n: int) -> Iterator[Booked]:
    """Yield parts until there are ``n`` rows."""
    for part in parts:
        yield part
        n -= len(part)
        if n <= 0:
            return


def _joined(parts: Iterable[Booked]) -> Booked:
    parts = list(parts) or [book([])]
    return Booked(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Booked)})
