"""Binance's spot market: its trades by stream, its candles and trades by request.

References
----------
https://github.com/binance/binance-spot-api-docs (rest-api.md, web-socket-streams.md), as of 2026-07-21.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from domain.errors import Unavailable, UsageError
from domain.events import BUY, NANOS_PER_MINUTE, NANOS_PER_SECOND, SELL, Trade
from domain.tables import BarTable, TradeTable
from markets.binance_wire import MS, Kline, PastTrade, TradeFrame, candle_table, meaning, trade_table
from markets.source import Resume
from markets.symbols import dashed, suggestion
from markets.venue import Address, Closing, Rest, changed

INTERVALS = {
    NANOS_PER_SECOND: "1s",
    **{minutes * NANOS_PER_MINUTE: f"{minutes}m" for minutes in (1, 3, 5, 15, 30)},
    **{hours * 60 * NANOS_PER_MINUTE: f"{hours}h" for hours in (1, 2, 4, 6, 8, 12)},
    1_440 * NANOS_PER_MINUTE: "1d",
}
"""The exchange's name of each candle length that divides a UTC day."""

SETTLED_NS = 2 * NANOS_PER_SECOND
"""A candle counts as closed this long after its end: it is answered from a database, which follows the matching."""

_PAGE = 1_000
_STREAMS = 1_024
_EARLIEST_MS, _LATEST_MS = 10**12, 10**13  # 2001 to 2286: a time in another unit lies outside


class _Aggregate(msgspec.Struct):
    f: int


class _Time(msgspec.Struct):
    serverTime: int  # noqa: N815 - the exchange's name


class _Market(msgspec.Struct):
    symbol: str
    status: str
    baseAsset: str  # noqa: N815 - likewise
    quoteAsset: str  # noqa: N815 - likewise


class _Markets(msgspec.Struct):
    symbols: list[_Market]


T = TypeVar("T")
Query = Mapping[str, str | int]


class Binance:
    """The exchange, or one that speaks its language; see ``venue.Venue``.

    Parameters
    ----------
    venue
        The venue of its instruments: ``simulated`` where the prices are made up.

    Notes
    -----
    It remembers the instruments it was asked about, so that their trades come back under the same name; any other
    symbol is divided before its quote asset.
    """

    address = Address("https://api.binance.com", "wss://stream.binance.com:443")
    weight_a_minute = 6_000
    candles_kept: int | None = None
    lifetime_s = 23 * 3_600.0  # the exchange ends a connection after 24 hours
    # The server pings every 20 s, so that even a market without trades is heard: two pings missed, and 5 s of delay.
    silence_s = 45.0

    def __init__(self, venue: str = "binance") -> None:
        self.name = venue
        self._instruments: dict[str, str] = {}
        self._frame = msgspec.json.Decoder(TradeFrame)

    def symbol(self, instrument: str) -> str:
        """Return ``BTCUSDT`` for ``binance:BTC-USDT``."""
        venue, _, name = instrument.partition(":")
        if venue != self.name or not name:
            raise UsageError(f"{instrument} is no instrument of {self.name}; write {self.name}:BTC-USDT")
        symbol = name.replace("-", "")
        self._instruments[symbol] = instrument
        return symbol

    def interval(self, interval: int) -> str:
        """Return the exchange's name of a candle length in ns.

        Raises
        ------
        UsageError
            When it has no such candles.
        """
        if interval not in INTERVALS:
            seconds, names = interval / NANOS_PER_SECOND, ", ".join(INTERVALS.values())
            raise UsageError(f"{self.name} has no candles of {seconds:g} s; use one of {names}")
        return INTERVALS[interval]

    def stream(self, base: str, instruments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the URL that names all streams; nothing needs to be sent."""
        if len(instruments) > _STREAMS:
            raise UsageError(f"{self.name} has at most {_STREAMS} streams a connection, not {len(instruments)}")
        names = "/".join(f"{self.symbol(instrument).lower()}@trade" for instrument in instruments)
        return f"{base}/stream?streams={names}", ()

    def read(self, frame: str | bytes) -> list[Trade]:
        """Return the trade of a frame; see ``Venue.read``."""
        try:
            data = self._frame.decode(frame).data
            price, size = float(data.p), float(data.q)
        except (msgspec.MsgspecError, ValueError) as error:
            return self._nothing(frame, error)
        if data.X != "MARKET":  # the insurance fund's, for one
            return []
        if not (0.0 < price < math.inf and 0.0 < size < math.inf and _EARLIEST_MS <= data.T < _LATEST_MS):
            raise changed(self.name, f"p {data.p}, q {data.q} or T {data.T} of trade {data.t} of {data.s} cannot be")
        instrument = self._instruments.get(data.s) or self._named(data.s)
        # The buyer was the maker: the taker sold.
        return [Trade(instrument, data.T * MS, data.t, price, size, SELL if data.m else BUY)]

    async def now(self, rest: Rest) -> int:
        """Return the exchange's clock, ns; it shows milliseconds."""
        return (await self._get(rest, "time", {}, 1, _Time)).serverTime * MS

    async def check(self, rest: Rest, instruments: Sequence[str]) -> None:
        """Return when all instruments are traded; see ``Venue.check``."""
        wanted = {self.symbol(instrument): instrument for instrument in instruments}
        try:
            markets = await self._markets(rest, {"symbols": msgspec.json.encode(list(wanted)).decode()})
        except UsageError:  # one is unknown, and the answer does not say which
            markets = await self._markets(rest, {"permissions": "SPOT"})
        for symbol, instrument in wanted.items():
            if symbol not in markets:
                names = [f"{market.baseAsset}-{market.quoteAsset}" for market in markets.values()]
                hint = suggestion(self.name, instrument.partition(":")[2], names)
                raise UsageError(f"{instrument} is not traded on {self.name}; {hint}")
            if markets[symbol].status != "TRADING":
                raise Unavailable(
                    f"{instrument}: trading is halted on {self.name} ({markets[symbol].status}); "
                    "wait until it resumes, or leave the instrument out"
                )

    async def candles(
        self, rest: Rest, instrument: str, interval: int, start: int, end: int
    ) -> AsyncIterator[BarTable]:
        """Yield closed candles; see ``Venue.candles``. They reach back to the first trade."""
        query: Query = {"symbol": self.symbol(instrument), "interval": self.interval(interval), "limit": _PAGE}
        end = min(end, await self.now(rest) - SETTLED_NS)
        # A candle that ends in (start, end] opens in [start + 1 - interval, end - interval].
        opened, last = max(0, -((interval - start - 1) // MS)), (end - interval) // MS
        while opened <= last:
            window = {**query, "startTime": opened, "endTime": last}
            rows = [row for row in await self._get(rest, "klines", window, 2, list[Kline]) if row.opened >= opened]
            if rows:
                yield candle_table(rows, MS, interval)
                opened = rows[-1].opened + 1
            if len(rows) < _PAGE:
                return

    async def trades(self, rest: Rest, instrument: str, after: Resume) -> AsyncIterator[TradeTable]:
        """Yield newer trades; see ``Venue.trades``. They reach back to the first."""
        symbol, since = self.symbol(instrument), -1
        following: int | None
        if after.after_trade_id is None:
            following, since = await self._first_id(rest, symbol, after.after_ts), after.after_ts
        else:
            following = after.after_trade_id + 1
        while following is not None:
            rows = [row for row in await self._trades(rest, symbol, _PAGE, following) if row.id >= following]
            wanted = [row for row in rows if row.time * MS > since]
            if wanted:
                yield trade_table(wanted)
            following = rows[-1].id + 1 if len(rows) == _PAGE else None

    async def _first_id(self, rest: Rest, symbol: str, after_ts: int) -> int | None:
        """Return the id of the first trade later than a time; None where there is none yet."""
        since = max(0, after_ts // MS + 1)
        query: Query = {"symbol": symbol, "startTime": since, "limit": 1}
        found = await self._get(rest, "aggTrades", query, 4, list[_Aggregate])
        if found and found[0].f >= 0:  # cancelled trades of the early years were aggregated with an id of -1
            return found[0].f
        # It may have looked no further than an hour: whether there is none tells the newest trade, and which, the ids.
        newest = await self._trades(rest, symbol, 1)
        if not newest or newest[-1].time < since:
            return None
        low, high = 0, newest[-1].id
        while low < high:
            middle = (low + high) // 2
            row = (await self._trades(rest, symbol, 1, middle) or newest)[0]
            low, high = (low, middle) if row.time >= since else (max(row.id, middle) + 1, high)
        return low

    async def _trades(self, rest: Rest, symbol: str, limit: int, first: int | None = None) -> list[PastTrade]:
        """Return trades from an id on, or else the newest."""
        query: Query = {"symbol": symbol, "limit": limit}
        query = query if first is None else {**query, "fromId": first}
        return await self._get(rest, "historicalTrades", query, 25, list[PastTrade])

    async def _markets(self, rest: Rest, query: Query) -> dict[str, _Market]:
        query = {**query, "showPermissionSets": "false"}  # a tenth of the bytes
        answer = await self._get(rest, "exchangeInfo", query, 20, _Markets)
        return {market.symbol: market for market in answer.symbols}

    async def _get(self, rest: Rest, path: str, query: Query, weight: int, kind: type[T]) -> T:
        body = await rest.get(f"/api/v3/{path}", query, weight)
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise changed(self.name, f"{path} answers what cannot be read: {error}") from error

    def _named(self, symbol: str) -> str:
        return self._instruments.setdefault(symbol, f"{self.name}:{dashed(symbol)}")

    def _nothing(self, frame: str | bytes, error: Exception) -> list[Trade]:
        """Return no trades, where a frame that does not read as one was not meant to be one."""
        event = meaning(frame)
        if event == "serverShutdown":
            raise Closing(f"{self.name} shuts this server down") from None
        if event == "error":
            words = frame if isinstance(frame, str) else frame.decode()
            raise UsageError(f"{self.name} refuses the subscription: {words}") from None
        if event in {"trade", ""}:
            raise changed(self.name, f"a trade cannot be read: {error}") from error
        return []
