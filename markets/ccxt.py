"""An exchange that has no connector of ours, through the library ccxt: less is promised of it, see ``CcxtSession``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from domain.bars import BAR_COLUMNS
from domain.errors import Unavailable
from domain.events import NANOS_PER_MINUTE
from domain.tables import BarTable
from markets.ascending import Ascending
from markets.ccxt_client import (
    MS,
    Exchange,
    Make,
    client_of,
    clock_of,
    demand_known,
    demand_traded,
    names_of,
    patiently,
    symbol_of,
    timeframe_of,
    trade_of,
)
from markets.ccxt_session import CcxtSession
from markets.contiguous import MOST_HELD
from markets.feed import LiveFeed
from markets.findings import utc
from markets.outbox import Outbox
from markets.pages import Candled, until_told
from markets.patience import PATIENCE_S, WALL, Patience
from markets.source import Resume
from markets.tempo import Tempo

_QUIET = 60
"""Candles in a row that may be absent at the beginning of a window: more, and the exchange no longer tells them."""

_PAGE = 100
"""Candles that an exchange surely looks through for a page."""

T = TypeVar("T")


class CcxtMarket(Candled):
    """An exchange; see ``source.Source``.

    Parameters
    ----------
    exchange : ccxt's name of it
    instruments, opens_ns, history_ns, interval : as of ``Candled``
    make : what makes clients; None: as usual
    patience_s : seconds for which requests that fail are repeated
    tempo : how quickly a feed acts

    Raises
    ------
    UsageError
        When ccxt is not installed or does not know the exchange.
    """

    simulated = False

    def __init__(
        self,
        exchange: str,
        instruments: Sequence[str],
        opens_ns: int,
        history_ns: int,
        *,
        interval: int = NANOS_PER_MINUTE,
        make: Make | None = None,
        patience_s: float = PATIENCE_S,
        tempo: Tempo | None = None,
    ) -> None:
        demand_known(exchange)
        super().__init__(instruments, opens_ns, history_ns, interval)
        self._exchange = exchange
        self._make = make or partial(client_of, exchange)
        self._patience = Patience(patience_s, WALL, structlog.get_logger().bind(exchange=exchange).info)
        self._tempo = tempo or Tempo()

    def open(self, resume: Mapping[str, Resume], speed: float) -> LiveFeed:
        """Open the feed: without a resume, at the opening. An exchange knows one speed."""
        del speed
        share = MOST_HELD // len(self.instruments)
        orders = {name: Ascending(start, share) for name, start in self._resumed(resume).items()}
        outbox = Outbox()
        return LiveFeed(CcxtSession(self._exchange, self._make, orders, outbox, self._tempo), outbox, None)

    def now(self) -> int:
        """Return the exchange's time, ns since epoch UTC, when it trades all instruments and numbers their trades.

        Raises
        ------
        UsageError
            When one is unknown there, or ccxt does not offer what is needed.
        Unavailable
            When it cannot be reached for longer than patience lasts, or trading is halted.
        """
        return asyncio.run(self._asked())

    async def _asked(self) -> int:
        async with self._make() as client:
            await self._load(client, self.instruments)
            names = names_of(client, self.instruments)
            for name in self.instruments:
                rows = await self._patiently(lambda: client.fetch_trades(symbol_of(name)))  # noqa: B023 - awaited here
                for row in rows[-1:]:
                    trade_of(self._exchange, name, names, row)
            return await self._patiently(lambda: clock_of(client))

    async def _load(self, client: Exchange, instruments: Sequence[str]) -> None:
        await self._patiently(client.load_markets)
        demand_traded(client, instruments)

    async def _candles(self, instrument: str, start: int, end: int) -> AsyncGenerator[BarTable, None]:
        """Yield pages of candles. One that is not told passes for no trades, except at the beginning of a window."""
        async with self._make() as client:
            await self._load(client, (instrument,))
            length, symbol, step = timeframe_of(client, self.interval), symbol_of(instrument), self.interval // MS
            await until_told(self._exchange, await self._patiently(lambda: clock_of(client)), end)
            said = client.feature_value(symbol, "fetchOHLCV", "limit")
            limit = said if isinstance(said, int) else None
            since, last = (start - self.interval) // MS + 1, (end - self.interval) // MS
            told = False
            while since <= last:
                rows = await self._patiently(lambda: client.fetch_ohlcv(symbol, length, since, limit))  # noqa: B023
                wanted = sorted(row for row in rows if None not in row and since <= (row[0] or 0) <= last)
                came = int(wanted[0][0] or 0) if wanted else min(last, since + (limit or _PAGE) * step)
                if not told and (came * MS - start) // self.interval > _QUIET:
                    raise Unavailable(
                        f"{self._exchange}: candles of {instrument} are asked for from {utc(start)}, but the exchange "
                        f"tells none before {utc(came * MS)}; choose later days, or less of history_days"
                    )
                if wanted:
                    told = True
                    yield _table(wanted, self.interval)
                    since = int(wanted[-1][0] or 0) + 1
                else:
                    since += (limit or _PAGE) * step

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(self._exchange, self._patience, call)


def _table(rows: list[list[float | None]], interval: int) -> BarTable:
    """Return candles as bars; what takers bought and sold, and how many trades there were, is 0: they do not tell."""
    told = np.array([row[:6] for row in rows], np.float64)
    values = np.zeros((len(rows), len(BAR_COLUMNS)), np.float64)
    values[:, :5] = told[:, 1:]
    columns = {name: at for at, name in enumerate(BAR_COLUMNS)}
    values[:, columns["vwap"]] = told[:, 1:5].mean(axis=1)
    values[:, columns["missing"]] = told[:, 5] == 0.0
    ts = np.array([int(row[0] or 0) for row in rows], np.int64)
    return BarTable(ts * MS + interval, values)
