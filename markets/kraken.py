"""Kraken's spot market: its trades by stream (version 2), its candles and trades by request.

References
----------
https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade and
https://docs.kraken.com/api-reference/market-data (get-ohlc-data, get-recent-trades, get-system-status), read in 2026.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from domain.errors import Unavailable, UsageError
from domain.events import BUY, NANOS_PER_MINUTE, NANOS_PER_SECOND, SELL, Trade
from domain.market import KRAKEN_TELLS
from domain.tables import BarTable, TradeTable
from markets.kraken_wire import (
    Answer,
    Candle,
    OtherFrame,
    PastTrade,
    Stamps,
    StatusFrame,
    TradeFrame,
    candle_table,
    trade_table,
)
from markets.source import Resume, rows_of
from markets.symbols import suggestion
from markets.venue import Address, Closing, Notice, Rest, changed

INTERVALS = {minutes * NANOS_PER_MINUTE: minutes for minutes in (1, 5, 15, 30, 60, 240, 1_440)}
"""Minutes of each candle length that divides a UTC day."""

_OLDER = {"BTC": "XBT", "DOGE": "XDG"}
"""What requests call some assets; the stream calls them as everybody does."""

_PAGE = 1_000
_SLACK_NS = 1_000_000
"""A trade's time may differ in its last digits between stream and request: pages begin this much earlier."""

_TRIES = 5
_FOR_GOOD = (
    "EQuery:",
    "EGeneral:Invalid",
    "EGeneral:Unknown method",
    "EGeneral:Permission",
    "EAPI:Invalid",
    "EAPI:Feature",
)
"""Errors that asking again does not help; others (``EService``, ``EAPI:Rate limit exceeded``, a lockout) pass."""

_UNKNOWN = ("not supported", "not found", "nvalid")
"""What the stream says of a symbol or a message that it will never take; anything else may pass."""

_HALTED = {"maintenance", "cancel_only", "post_only"}  # states in which nothing is matched


class _Time(msgspec.Struct):
    unixtime: int


class _Status(msgspec.Struct):
    status: str


class _Pair(msgspec.Struct):
    altname: str
    wsname: str = ""
    status: str = "online"


T = TypeVar("T")
Query = Mapping[str, str | int]


class Kraken:
    """The exchange, or one that speaks its language; see ``venue.Venue``.

    Parameters
    ----------
    venue
        The venue of its instruments: ``simulated`` where the prices are made up.

    Notes
    -----
    Its candles do not tell what takers bought and sold, and it keeps the newest 720 of a length. It remembers the
    instruments it was asked about.
    """

    address = Address("https://api.kraken.com", "wss://ws.kraken.com")
    candles_kept: int | None = KRAKEN_TELLS
    weight_a_minute = 60  # a request a second is within its limits for public data
    lifetime_s = math.inf
    silence_s = 10.0  # it sends a heartbeat in each second in which it sends nothing else

    def __init__(self, venue: str = "kraken") -> None:
        self.name = venue
        self._instruments: dict[str, str] = {}
        self._frame = msgspec.json.Decoder(TradeFrame)
        self._stamps = Stamps()

    def symbol(self, instrument: str) -> str:
        """Return ``XBTUSD`` for ``kraken:BTC-USD``."""
        return "".join(_OLDER.get(part, part) for part in self._parts(instrument))

    def stream(self, base: str, instruments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the URL, and one message that subscribes to all."""
        names = ["/".join(self._parts(instrument)) for instrument in instruments]
        params = {"channel": "trade", "symbol": names, "snapshot": False}
        return f"{base}/v2", (msgspec.json.encode({"method": "subscribe", "params": params, "req_id": 1}).decode(),)

    def read(self, frame: str | bytes) -> list[Trade]:
        """Return the trades of a frame; see ``Venue.read``."""
        trades, known, time = [], self._instruments, self._stamps.read
        try:
            for row in self._frame.decode(frame).data:
                price, size = row.price, row.qty
                if not (0.0 < price < math.inf and 0.0 < size < math.inf):
                    raise changed(
                        self.name, f"price {price} or qty {size} of trade {row.trade_id} of {row.symbol} cannot be"
                    )
                instrument = known.get(row.symbol) or self._named(row.symbol)
                side = BUY if row.side == "buy" else SELL
                trades.append(Trade(instrument, time(row.timestamp), row.trade_id, price, size, side))
        except (msgspec.MsgspecError, ValueError) as error:
            return self._nothing(frame, error)
        return trades

    async def now(self, rest: Rest) -> int:
        """Return the exchange's clock, ns; it shows whole seconds."""
        return (await self._get(rest, "Time", {}, _Time)).unixtime * NANOS_PER_SECOND

    async def check(self, rest: Rest, instruments: Sequence[str]) -> None:
        """Return when all instruments are traded; see ``Venue.check``."""
        system = await self._get(rest, "SystemStatus", {}, _Status)
        if system.status in _HALTED:
            raise Unavailable(f"trading is halted on {self.name} ({system.status}); wait until it resumes")
        wanted = {self.symbol(instrument): instrument for instrument in instruments}
        try:
            found = await self._get(rest, "AssetPairs", {"pair": ",".join(wanted)}, dict[str, _Pair])
        except UsageError:  # one is unknown, and the answer does not say which
            found = await self._get(rest, "AssetPairs", {}, dict[str, _Pair])
        pairs = {pair.altname: pair for pair in found.values()}
        for symbol, instrument in wanted.items():
            if symbol not in pairs:
                hint = suggestion(
                    self.name, instrument.partition(":")[2], [_plain(pair.wsname) for pair in found.values()]
                )
                raise UsageError(f"{instrument} is not traded on {self.name}; {hint}")
            if pairs[symbol].status in _HALTED:
                raise Unavailable(
                    f"{instrument}: trading is halted on {self.name} ({pairs[symbol].status}); "
                    "wait until it resumes, or leave the instrument out"
                )

    async def candles(
        self, rest: Rest, instrument: str, interval: int, start: int, end: int
    ) -> AsyncIterator[BarTable]:
        """Yield closed candles; see ``Venue.candles``. All come in one page, for it has no older ones."""
        if interval not in INTERVALS:
            names = ", ".join(f"{minutes}m" for minutes in INTERVALS.values())
            raise UsageError(f"{self.name} has no candles of {interval / NANOS_PER_SECOND:g} s; use one of {names}")
        end = min(end, await self.now(rest))
        since = max(0, (start - interval) // NANOS_PER_SECOND)
        query: Query = {"pair": self.symbol(instrument), "interval": INTERVALS[interval], "since": since}
        rows, _ = await self._page(rest, "OHLC", query, list[Candle])
        wanted = [row for row in rows if start < row.opened * NANOS_PER_SECOND + interval <= end]
        if wanted:
            yield candle_table(wanted, interval)

    async def trades(self, rest: Rest, instrument: str, after: Resume) -> AsyncIterator[TradeTable]:
        """Yield newer trades; see ``Venue.trades``. They reach back to the first.

        Raises
        ------
        Unavailable
            When as many trades as a page holds have one time: none may be left out, and there is no way on.
        """
        pair, newest, since, jumped = self.symbol(instrument), after.after_trade_id, after.after_ts - _SLACK_NS, False
        earliest = after.after_ts + 1 if newest is None else 0
        while True:
            query: Query = {"pair": pair, "since": max(0, since), "count": _PAGE}
            rows, last = await self._page(rest, "Trades", query, list[PastTrade])
            table = trade_table(rows)
            table = rows_of(table, (table.trade_id > (-1 if newest is None else newest)) & (table.ts >= earliest))
            if len(table):
                if jumped and newest is not None and table.trade_id[0] != newest + 1:
                    raise self._crowded(instrument, since)
                yield table
                newest = int(table.trade_id[-1])
            if len(rows) < _PAGE:
                return
            # A page may end within one time, and the next begins behind it: ask for that time again. A page that is
            # all of one time leaves only the jump behind it.
            jumped = last - 1 <= since
            if last <= since:
                raise self._crowded(instrument, since)
            since = last if jumped else last - 1

    async def _page(self, rest: Rest, path: str, query: Query, kind: type[T]) -> tuple[T, int]:
        """Return the rows of a page, and the cursor behind it."""
        answer = await self._get(rest, path, query, dict[str, msgspec.Raw])
        try:
            last = int(bytes(answer.pop("last")).strip(b'"'))
            [rows] = answer.values()
            return msgspec.json.decode(rows, type=kind), last
        except (KeyError, ValueError) as error:
            raise changed(self.name, f"{path} answers what cannot be read: {error}") from error

    async def _get(self, rest: Rest, path: str, query: Query, kind: type[T]) -> T:
        weight, words = 1, ""
        for _ in range(_TRIES):
            body = await rest.get(f"/0/public/{path}", query, weight)
            try:
                answer = msgspec.json.decode(body, type=Answer)
                words = ", ".join(error for error in answer.error if not error.startswith("W"))  # warnings
                if not words:
                    return msgspec.json.decode(answer.result, type=kind)
            except msgspec.MsgspecError as error:
                raise changed(self.name, f"{path} answers what cannot be read: {error}") from error
            if words.startswith(_FOR_GOOD):
                said = " ".join(f"{name}={value}" for name, value in query.items())
                raise UsageError(f"{self.name} refuses {path} {said}: {words}")
            weight = self.weight_a_minute  # nothing is left of the budget: wait until it has filled again
        raise Unavailable(f"{self.name} does not answer {path}: {words}; try again later")

    def _parts(self, instrument: str) -> tuple[str, str]:
        """Return base and quote of an instrument, as the stream calls them."""
        venue, _, name = instrument.partition(":")
        base, dash, quote = name.partition("-")
        if venue != self.name or not (base and dash and quote):
            raise UsageError(f"{instrument} is no instrument of {self.name}; write {self.name}:BTC-USD")
        if name != _plain(f"{base}/{quote}"):
            raise UsageError(f"{instrument} has another name in {self.name}'s stream; write {self.name}:{_plain(name)}")
        self._instruments[f"{base}/{quote}"] = instrument
        return base, quote

    def _named(self, symbol: str) -> str:
        return self._instruments.setdefault(symbol, f"{self.name}:{symbol.replace('/', '-')}")

    def _nothing(self, frame: str | bytes, error: Exception) -> list[Trade]:
        """Return no trades, where a frame that does not read as some was not meant to be one."""
        try:
            other = msgspec.json.decode(frame, type=OtherFrame)
        except msgspec.MsgspecError:
            other = OtherFrame(channel="trade")
        if other.error and "lready subscribed" not in other.error:
            if any(words in other.error for words in _UNKNOWN):
                raise UsageError(f"{self.name} refuses the subscription: {other.error}") from None
            raise Closing(f"{self.name} does not subscribe now: {other.error}") from None
        if other.channel == "status":
            raise Notice(self._condition(frame)) from None
        if other.channel == "trade" and other.type != "snapshot":  # not asked for: history comes by request
            raise changed(self.name, f"a trade cannot be read: {error}") from error
        return []

    def _condition(self, frame: str | bytes) -> str:
        """Return what a frame of channel ``status`` says is wrong."""
        try:
            system = msgspec.json.decode(frame, type=StatusFrame).data[-1].system
        except (msgspec.MsgspecError, IndexError):
            return ""
        return f"{self.name} is in {system}: nothing is traded" if system in _HALTED else ""

    def _crowded(self, instrument: str, ts: int) -> Unavailable:
        return Unavailable(f"{instrument}: {self.name} has {_PAGE} trades or more at {ts} ns; they cannot be paged")


def _plain(name: str) -> str:
    """Return a pair's name with its parts as everybody calls them.

    >>> _plain("XBT/USD"), _plain("ETH-XBT")
    ('BTC-USD', 'ETH-BTC')
    """
    older = {value: key for key, value in _OLDER.items()}
    return "-".join(older.get(part, part) for part in name.replace("/", "-").split("-"))
