"""The library ccxt, seen through what Tidemill needs of it: a client, its errors in our words, trades in our form."""

from __future__ import annotations

import importlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import msgspec

from domain.errors import BadRecord, TidemillError, Unavailable, UsageError
from domain.events import BUY, NANOS_PER_SECOND, SELL, UNKNOWN, Trade
from domain.market import CCXT
from markets.patience import Passing, Patience
from markets.symbols import suggestion

MS = 1_000_000
"""ccxt tells times in ms."""

KEPT = 200_000
"""Trades of an instrument that ccxt keeps until they are taken. What is beyond its limit it loses without a word."""

_SUMMED = ("binance", "binanceus", "binanceusdm", "binancecoinm")
"""Where requests tell trades summed by order, with ids of their own: the stream is asked for the same kind."""

_NEEDED = ("watchTrades", "fetchTrades", "fetchOHLCV")

_MOST_ID = 2**63 - 1
_WORDS = 200

T = TypeVar("T")
Row: TypeAlias = Mapping[str, object]
Make: TypeAlias = Callable[[], AbstractAsyncContextManager["Exchange"]]
"""Makes a client for the event loop that enters it, and closes it on leaving."""


class Exchange(Protocol):
    """A client of ``ccxt.pro``, as far as it is used here. Symbols are ccxt's (``BTC/USDT``), times ms."""

    id: str
    has: Mapping[str, object]
    options: Mapping[str, object]
    timeframes: Mapping[str, object] | None
    markets: Mapping[str, Mapping[str, Any]]
    clients: Mapping[str, Any]

    async def load_markets(self) -> object:
        """Ask what is traded, once."""

    async def fetch_time(self) -> int:
        """Return the exchange's clock."""

    async def fetch_trades(self, symbol: str, since: int | None = None) -> list[Row]:
        """Return a page of trades, the oldest first."""

    async def fetch_ohlcv(self, symbol: str, timeframe: str, since: int, limit: int | None) -> list[list[float | None]]:
        """Return a page of candles: start, open, high, low, close, volume."""

    async def watch_trades(self, symbol: str) -> list[Row]:
        """Return the trades of a stream since the last call, once there are some."""

    def feature_value(self, symbol: str, method: str, name: str) -> object:
        """Return what is known of a method's limits."""

    def milliseconds(self) -> int:
        """Return this machine's clock."""


class _Told(msgspec.Struct):
    timestamp: int
    price: float
    amount: float
    side: str | None = None


def demand_known(exchange: str) -> None:
    """Return when the library is here and streams this exchange's trades; quickly, for it is not imported.

    Raises
    ------
    UsageError
        When it is not installed, or knows no such exchange: close names that it knows.
    """
    found = find_spec("ccxt")
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{CCXT}{exchange} needs the package ccxt; run .venv/bin/python -m pip install 'ccxt>=4.5.90'")
    known = {path.stem for path in Path(found.submodule_search_locations[0], "pro").glob("[a-z]*.py")}
    if exchange not in known:
        close = " or ".join(CCXT + name for name in get_close_matches(exchange, sorted(known)))
        hint = f"did you mean {close}?" if close else "see https://docs.ccxt.com for their names"
        raise UsageError(f"ccxt streams no trades of an exchange {exchange!r}; {hint}")


@asynccontextmanager
async def client_of(exchange: str) -> AsyncIterator[Exchange]:
    """Open a client of an exchange, and close it. The library takes seconds to import."""
    kind = getattr(importlib.import_module("ccxt.pro"), exchange)
    options: dict[str, object] = {"tradesLimit": KEPT, "defaultType": "spot"}
    if exchange in _SUMMED:
        options |= {"watchTrades": {"name": "aggTrade"}, "watchTradesForSymbols": {"name": "aggTrade"}}
    client = kind({"newUpdates": True, "options": options})
    asked = client.options.get("fetchMarkets")
    if isinstance(asked, dict) and isinstance(asked.get("types"), list):
        asked["types"] = ["spot"]  # markets of other kinds are many, and some have hosts of their own
    try:
        yield cast("Exchange", client)
    finally:
        await client.close()


_DEAF = "needs what a public reader has not, such as an API key; choose another exchange"
_BUSY = "limits this address; nothing to do: it is asked again later"
_SHUT = "is in maintenance or not available; try again later"
_LOST = "cannot be reached; check the network"
_ERRORS: tuple[tuple[str, type[TidemillError], str], ...] = (
    ("BadSymbol", UsageError, "does not trade this; correct the instruments"),
    ("AuthenticationError", UsageError, _DEAF),
    ("RestrictedLocation", UsageError, "serves nobody at this address; choose another exchange"),
    ("InvalidProxySettings", UsageError, "cannot be asked through this proxy; correct HTTPS_PROXY"),
    ("NotSupported", UsageError, "does not offer this by ccxt; choose another exchange"),
    ("ArgumentsRequired", UsageError, "does not offer this by ccxt; choose another exchange"),
    ("BadRequest", UsageError, "refuses the request"),
    ("RateLimitExceeded", Unavailable, _BUSY),
    ("DDoSProtection", Unavailable, _BUSY),
    ("ExchangeNotAvailable", Unavailable, _SHUT),
    ("NetworkError", Unavailable, _LOST),
    ("OSError", Unavailable, _LOST),
    ("ClientError", Unavailable, _LOST),
    ("BaseError", Unavailable, "answers with an error; try again later"),
)
"""ccxt's errors, special ones before what they are cases of; and those of its connections, which it may let by."""


@contextmanager
def errors_of(exchange: str) -> Iterator[None]:
    """Let ccxt's errors be ours within a block.

    Raises
    ------
    UsageError
        When something must be changed by a person.
    Unavailable
        When trying again may help.
    """
    try:
        yield
    except Exception as error:
        homes = ("ccxt", "aiohttp", "builtins")
        # Where there is no connection, ccxt says that the exchange is not available: what it caught knows better.
        known = error.__cause__ if isinstance(error.__cause__, OSError) else error
        kinds = {kind.__name__ for kind in type(known).__mro__ if kind.__module__.startswith(homes)}
        for name, ours, text in _ERRORS:
            if name in kinds:
                words = " ".join(str(error).split())[:_WORDS] or type(error).__name__
                raise ours(f"{exchange} {text} ({words})") from error
        raise


async def patiently(exchange: str, patience: Patience, call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call returns, which is repeated while that may help and patience lasts."""

    async def attempt(_: float) -> T:
        try:
            with errors_of(exchange):
                return await call()
        except Unavailable as error:
            raise Passing(str(error)) from error

    return await patience.until_done(attempt)


async def clock_of(client: Exchange) -> int:
    """Return the exchange's clock, ns; of an exchange that shows none, this machine's."""
    ms = await client.fetch_time() if client.has.get("fetchTime") else client.milliseconds()
    return int(ms) * MS


def symbol_of(instrument: str) -> str:
    """Return ccxt's name of an instrument's market.

    >>> symbol_of("okx:BTC-USDT")
    'BTC/USDT'
    """
    base, _, quote = instrument.partition(":")[2].rpartition("-")
    return f"{base}/{quote}"


def demand_traded(client: Exchange, instruments: Sequence[str]) -> None:
    """Return when an exchange whose markets are loaded trades all instruments, and ccxt offers what is needed.

    Raises
    ------
    UsageError
        When one is unknown: its name, and close ones that exist.
    Unavailable
        When trading is halted.
    """
    missing = ", ".join(name for name in _NEEDED if client.has.get(name) is not True)
    if missing:
        raise UsageError(f"{client.id} does not offer {missing} by ccxt; choose another exchange")
    for name in instruments:
        market = client.markets.get(symbol_of(name))
        if market is None or not market.get("spot"):
            spot = [one.replace("/", "-") for one in client.markets if ":" not in one]
            hint = suggestion(client.id, name.partition(":")[2], spot)
            raise UsageError(f"{name} is not traded on {client.id}; {hint}")
        if market.get("active") is False:
            raise Unavailable(
                f"{name}: trading is halted on {client.id}; wait until it resumes, or leave the instrument out"
            )


def names_of(client: Exchange, instruments: Sequence[str]) -> dict[str, str]:
    """Return which instrument each name means that the exchange itself has for its market."""
    names = {}
    for instrument in instruments:
        market = client.markets[symbol_of(instrument)]
        raw = market.get("info")
        said = (raw.get("wsname"), raw.get("altname")) if isinstance(raw, dict) else ()
        for name in (market["symbol"], market["id"], market.get("lowercaseId"), *said):
            if isinstance(name, str):
                names[name] = instrument
    return names


def trade_of(exchange: str, instrument: str, names: Mapping[str, str], row: Row) -> Trade:
    """Return a trade of an instrument, or of the one that the exchange itself names in it.

    ccxt takes all trades of a frame for such of the first one's market, which need not be so.

    Raises
    ------
    UsageError
        When its id is no whole number.
    BadRecord
        When it cannot be read.
    """
    number = str(row.get("id"))
    if not (number.isascii() and number.isdecimal() and int(number) <= _MOST_ID):
        raise UsageError(
            f"{exchange} does not number its trades (id {number[:40]!r}), so that they cannot be read once and in "
            "order; choose an exchange that does, such as ccxt:coinbase or ccxt:bitstamp"
        )
    try:
        told = msgspec.convert(row, _Told, strict=False)
    except msgspec.ValidationError as error:
        raise BadRecord("schema", f"{exchange}: trade {number} cannot be read: {error}") from error
    if not (0.0 < told.price < math.inf and 0.0 < told.amount < math.inf):
        raise BadRecord("schema", f"{exchange}: price {told.price} or amount {told.amount} of trade {number} cannot be")
    side = {"buy": BUY, "sell": SELL}.get(told.side or "", UNKNOWN)
    raw = row.get("info")
    said = raw.values() if isinstance(raw, dict) else ()
    named = next((names[value] for value in said if isinstance(value, str) and value in names), instrument)
    return Trade(named, told.timestamp * MS, int(number), told.price, told.amount, side)


def timeframe_of(client: Exchange, interval: int) -> str:
    """Return the exchange's name of candles of a length in ns.

    Raises
    ------
    UsageError
        When it has none: which it has.
    """
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    names = [name for name in client.timeframes or {} if name[-1] in units and name[:-1].isdecimal()]
    for name in names:
        if int(name[:-1]) * units[name[-1]] * NANOS_PER_SECOND == interval:
            return name
    has = f"use one of {', '.join(names)}" if names else "choose another exchange"
    raise UsageError(f"{client.id} has no candles of {interval / NANOS_PER_SECOND:g} s; {has}")
