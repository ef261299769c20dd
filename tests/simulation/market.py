"""A small made-up market, candles or trades: what happens in a day, and the source that tells the system of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from domain.bars import BAR_COLUMNS
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND, Bar, Trade
from domain.tables import BarTable, TradeTable
from markets.source import Refused, Resume
from tests.simulation.faults import Hands

LEAD = 420
"""Minutes of history: 241 bars to the first vector, and some labels to train the first model on."""


class Market:
    """See ``markets.source.Source``. Trades come in event-time order; quiet minutes have none.

    Parameters
    ----------
    hours : length of the stream, which begins at some time of day so that midnight lies within
    speed : event seconds per virtual wall second
    """

    simulated = True

    def __init__(self, seed: int, instruments: tuple[str, ...], *, candles: bool, hours: float, speed: float) -> None:
        rng = np.random.default_rng(seed)
        self.instruments, self.speed = instruments, speed
        self.kind = "bars" if candles else "trades"
        self.interval = NANOS_PER_MINUTE if candles else None
        self.opens = 20_000 * NANOS_PER_DAY + int(rng.integers(8, 20)) * 60 * NANOS_PER_MINUTE
        self.start, self.minutes = self.opens - LEAD * NANOS_PER_MINUTE, int(hours * 60)
        self.end = self.opens + self.minutes * NANOS_PER_MINUTE
        self.clock: Hands | None = None
        make = self._candles if candles else self._trades
        self.tables = {name: make(rng) for name in instruments}

    def _prices(self, rng: np.random.Generator, n: int) -> np.ndarray:
        calm = 0.6 + 0.5 * np.sin(np.arange(n) / (n / 9)) ** 2
        return np.round(100.0 * np.exp(np.cumsum(rng.normal(0, 8e-4, n) * calm)), 2)

    def _trades(self, rng: np.random.Generator) -> TradeTable:
        n = int((LEAD + self.minutes) * 1.3)
        ts = np.sort(rng.integers(self.start, self.end, n)) // 1_000_000 * 1_000_000
        ts[0] = self.start  # decides where the first bar lies
        size = np.round(rng.lognormal(-1, 1, n) + 1e-4, 4)
        side = rng.choice(np.array([-1, 1], np.int8), n)
        return TradeTable(ts, 1_000 + np.arange(n), self._prices(rng, n), size, side)

    def _candles(self, rng: np.random.Generator) -> BarTable:
        n = LEAD + self.minutes
        close = self._prices(rng, n)
        opened = np.concatenate([[100.0], close[:-1]])
        values = np.zeros((n, len(BAR_COLUMNS)))
        high, low = np.maximum(opened, close) + 0.01, np.minimum(opened, close) - 0.01
        values[:, :5] = np.stack([opened, high, low, close, rng.lognormal(1, 1, n)], axis=1)
        values[:, 7] = close
        kept = rng.random(n) < 0.97
        kept[[0, LEAD - 1]] = True
        return BarTable((self.start + NANOS_PER_MINUTE * (1 + np.arange(n)))[kept], values[kept])

    def span(self, instrument: str) -> tuple[int, int]:
        """See ``Source``."""
        return self.start, self.opens

    def history(self, instrument: str, start: int, end: int) -> Iterator[TradeTable] | Iterator[BarTable]:
        """See ``Source``."""
        table = self.tables[instrument]
        candles = isinstance(table, BarTable)
        first, last = np.searchsorted(table.ts, (start, end), side="right" if candles else "left")
        yield type(table)(*(column[first:last] for column in vars(table).values()))

    def open(self, resume: Mapping[str, Resume], speed: float) -> LiveFeed:
        """See ``Source``: the market does not wait for who reads it."""
        return LiveFeed(self, resume)

    def live(self, name: str) -> list[Trade] | list[Bar]:
        """Return the events of the stream of one instrument."""
        table = self.tables[name]
        stop = Resume(self.opens - 1) if isinstance(table, TradeTable) else Resume(self.opens)
        return list(LiveFeed(self, {name: stop})._events)

    def now(self) -> int:
        """Return the event time that the market has come to, ns."""
        return self.opens + int(self.clock.now * self.speed * NANOS_PER_SECOND)


class LiveFeed:
    """What the market does from where a reader stopped, as it happens."""

    def __init__(self, market: Market, resume: Mapping[str, Resume]) -> None:
        self._market, self._at = market, 0
        events = []
        for place, (name, table) in enumerate(market.tables.items()):
            if name not in resume:
                continue
            stop = resume[name]
            wanted = table.ts > stop.after_ts
            if isinstance(table, TradeTable) and stop.after_trade_id is not None:
                wanted |= (table.ts == stop.after_ts) & (table.trade_id > stop.after_trade_id)
            columns = [column[wanted].tolist() for column in vars(table).values()]
            if isinstance(table, TradeTable):
                events += [(row[0], place, Trade(name, *row)) for row in zip(*columns, strict=True)]
            else:
                events += [(ts, place, Bar(name, ts, *row)) for ts, row in zip(*columns, strict=True)]
        events.sort(key=lambda event: event[:2])
        self._events = [event for _, _, event in events]
        self._ts = np.array([event.ts_event for event in self._events], np.int64)

    @property
    def done(self) -> bool:
        """See ``Feed``."""
        return self._at >= len(self._events)

    def poll(self, max_events: int, timeout_s: float) -> list[Trade] | list[Bar]:
        """See ``Feed``."""
        due = int(np.searchsorted(self._ts, self._market.now(), side="right"))
        stop = max(self._at, min(due, self._at + max_events))
        events, self._at = self._events[self._at : stop], stop
        return events

    @property
    def health(self) -> Mapping[str, object]:
        """See ``Feed``."""
        return {}

    def refused(self) -> list[Refused]:
        """See ``Feed``."""
        return []

    def close(self) -> None:
        """See ``Feed``."""
        self._at = len(self._events)
