"""A simulated market: seeded trades of any window of any day, the same however they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from domain.errors import UsageError
from domain.events import BUY, NANOS_PER_DAY, SELL
from domain.tables import Ints, TradeTable
from markets.merged import MergedFeed
from markets.pacing import WALL, Clock, Pace
from markets.regimes import DAYS, MINUTES, Climate, Weather, grow
from markets.source import Feed, Kind, Resume, newer, rows_of

_MS = 1_000_000
_MINUTE_MS = 60_000
_KEPT = 4


class Simulated:
    """A made-up market; see ``source.Source``. History works for any window from 1970 to 2149, past or future.

    Parameters
    ----------
    seed : int
        The same seed is the same market, on every machine.
    instruments : ``venue:SYMBOL``
        BTC and ETH trade at their usual prices, others at a price told by their name.
    opens_ns : int
        Where history ends and the feed begins, ns since epoch UTC.
    history_days : int
        How far ``span`` reaches back.
    clock
        What paced feeds go by.

    Raises
    ------
    UsageError
        When the opening is not in 1970 to 2149.

    Notes
    -----
    Volatility persists (over minutes and hours), has hours of the day, and so can be forecast; the laws it follows
    drift within weeks, so that a model that keeps learning beats one that does not. Direction can
    hardly be forecast. Some minutes have no trade. Each day has the same number of trades at random times, which is
    why trade ids are contiguous without counting the days before.

    Examples
    --------
    >>> market = Simulated(7, ["simulated:BTC-USD"], 20_000 * NANOS_PER_DAY, 7)
    >>> [table] = market.history("simulated:BTC-USD", 19_999 * NANOS_PER_DAY, 20_000 * NANOS_PER_DAY)
    >>> len(table), bool((np.diff(table.trade_id) == 1).all())
    (57600, True)
    """

    kind: Kind = "trades"
    simulated = True
    interval = None

    def __init__(
        self, seed: int, instruments: Sequence[str], opens_ns: int, history_days: int, clock: Clock = WALL
    ) -> None:
        if not 0 < opens_ns < (DAYS - 1) * NANOS_PER_DAY:
            raise UsageError("the simulated market has no such day; set market.opens between 1970 and 2149")
        self.instruments = tuple(instruments)
        self._opens = opens_ns
        self._history = history_days * NANOS_PER_DAY
        self._clock = clock
        self._climates = {instrument: Climate(seed % (1 << 64), instrument) for instrument in self.instruments}
        self._days: OrderedDict[tuple[str, int], TradeTable] = OrderedDict()

    def span(self, instrument: str) -> tuple[int, int]:
        """Return the declared history: from its first day to the opening."""
        del instrument  # all have the same
        return max(0, self._opens - self._history), self._opens

    def history(self, instrument: str, start: int, end: int) -> Iterator[TradeTable]:
        """Yield the trades with ``start <= ts < end``, a table a day."""
        for day in range(max(0, start // NANOS_PER_DAY), min(DAYS - 1, -(-end // NANOS_PER_DAY))):
            table = self._day(instrument, day)
            low, high = np.searchsorted(table.ts, (start, end)).tolist()
            if low < high:
                yield rows_of(table, slice(low, high))

    def open(self, resume: Mapping[str, Resume], speed: float) -> Feed:
        """Open the feed, which goes on until 2149; without a resume, at the opening."""
        streams = []
        for instrument in self.instruments:
            stop = resume.get(instrument)
            start = self._opens if stop is None else stop.after_ts
            streams.append((instrument, newer(self.history(instrument, start, DAYS * NANOS_PER_DAY), stop)))
        return MergedFeed(streams, Pace(speed, self._clock))

    def _day(self, instrument: str, day: int) -> TradeTable:
        """Return a day's trades; the last few days are kept, for windows are often parts of one."""
        known = self._days.get((instrument, day))
        if known is None:
            known = _trades(self._climates[instrument], day)
            self._days[instrument, day] = known
            while len(self._days) > _KEPT * len(self.instruments):
                self._days.popitem(last=False)
        return known


def _trades(climate: Climate, day: int) -> TradeTable:
    """Return all trades of a day."""
    profile, weather = climate.profile, climate.on(day)
    n = profile.a_day
    random = climate.random(6, day)
    at, minute = _times(random, weather, n)
    side = np.where(random.random(n) < weather.buyers[minute], BUY, SELL).astype(np.int8)
    # The fair price: each minute's variance and drift, shared out over its trades, bent to end at midnight's price.
    count = np.bincount(minute, minlength=MINUTES)[minute]
    volatility = weather.volatility[minute]
    clock = np.cumsum(volatility * volatility / count)
    path = np.cumsum(volatility / np.sqrt(count) * random.standard_normal(n) + weather.drift[minute] / count)
    path += (weather.end - weather.start - path[-1]) * (clock / clock[-1])
    fair = profile.price * grow(weather.start + path)
    # A taker pays the spread: the bounce between bid and ask.
    price = np.rint(fair * (1.0 + weather.spread[minute] * side) * profile.ticks) / profile.ticks
    large = grow(0.9 * random.standard_normal(n)) * weather.appetite[minute]
    size = np.maximum(np.rint(profile.size * large * profile.lots), 1.0) / profile.lots
    ids = np.arange(day * n + 1, (day + 1) * n + 1, dtype=np.int64)
    return TradeTable(day * NANOS_PER_DAY + at * _MS, ids, np.maximum(price, 1.0 / profile.ticks), size, side)


def _times(random: np.random.Generator, weather: Weather, n: int) -> tuple[Ints, Ints]:
    """Return when ``n`` trades happen, ms since midnight, in order, and in which minute each is."""
    weight = np.cumsum(weather.activity)
    minute = np.searchsorted(weight, random.random(n) * weight[-1], side="right").astype(np.int64)
    at = np.sort(minute * _MINUTE_MS + random.integers(0, _MINUTE_MS, n))
    return at, at // _MINUTE_MS
