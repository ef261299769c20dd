"""Kraken's public REST interface: what it lists, its newest candles, and every trade by nanosecond cursor.

References
----------
https://docs.kraken.com/api/docs/rest-api/get-recent-trades and its neighbours
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from domain.events import NANOS_PER_MINUTE, NANOS_PER_SECOND
from markets.box.candles import opening
from markets.box.listing import Listing
from markets.box.market import Market, decimal
from markets.box.tape import UNIT

INTERVALS = {str(minutes): minutes * NANOS_PER_MINUTE for minutes in (1, 5, 15, 30, 60, 240, 1_440, 10_080)}
"""Lengths of candles, ns by minutes. The exchange also has 15 days."""

CANDLES = 720
"""How many candles it remembers."""

PAGE = 1_000

_SECONDS_UNTIL = 10**12
"""A ``since`` below this is in seconds: as nanoseconds it would be 1970."""

_LATEST = 1 << 62
"""What later times count as, ns: the year 2116."""

_RFC1123 = "%a, %d %b %y %H:%M:%S +0000"  # with the year of RFC 822, as the exchange writes it

_json = msgspec.json.Encoder().encode


class _Refused(Exception):  # noqa: N818 - it names what happens
    """A request is answered with an error of the exchange: in the envelope, and with status 200."""


class KrakenRest:
    """Answers of one market.

    Parameters
    ----------
    market
        What was traded.
    fault : () -> (status, seconds) or None
        Which error the next request is to be answered with instead, and when it may come again.
    """

    def __init__(self, market: Market, fault: Callable[[], tuple[int, int] | None]) -> None:
        self._market = market
        self._fault = fault
        self._listings = {
            name: listing
            for listing in market.listings
            for name in (listing.kraken_altname, listing.kraken_pair, listing.kraken_wsname, listing.kraken_symbol)
        }

    def routes(self) -> list[Route]:
        """Return where it answers."""
        answers = {
            "Time": self._time,
            "SystemStatus": self._status,
            "Assets": self._assets,
            "AssetPairs": self._pairs,
            "OHLC": self._candles,
            "Trades": self._trades,
        }
        return [self._route(name, answer) for name, answer in answers.items()]

    def _route(self, name: str, answer: Callable[[Mapping[str, str]], object]) -> Route:
        async def endpoint(request: Request) -> Response:
            fault = self._fault()
            if fault is not None:
                return _trouble(*fault)
            try:
                return _enveloped({"error": [], "result": answer(request.query_params)})
            except _Refused as refused:
                return _enveloped({"error": [str(refused)]})

        return Route(f"/0/public/{name}", endpoint, methods=["GET"])

    def _time(self, given: Mapping[str, str]) -> object:
        del given
        seconds = self._market.clock.now() // NANOS_PER_SECOND
        return {"unixtime": seconds, "rfc1123": datetime.fromtimestamp(seconds, UTC).strftime(_RFC1123)}

    def _status(self, given: Mapping[str, str]) -> object:
        del given
        now = datetime.fromtimestamp(self._market.clock.now() // NANOS_PER_SECOND, UTC)
        return {"status": "online", "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _assets(self, given: Mapping[str, str]) -> object:
        assets = {
            key: {"aclass": "currency", "altname": altname, "decimals": 10, "display_decimals": 5, "status": "enabled"}
            for listing in self._market.listings
            for key, altname in listing.kraken_assets
        }
        wanted = given.get("asset", "")
        if not wanted:
            return assets
        found = {key: asset for key, asset in assets.items() if {key, str(asset["altname"])} & set(wanted.split(","))}
        if len(found) < len(set(wanted.split(","))):
            raise _Refused("EQuery:Unknown asset")
        return found

    def _pairs(self, given: Mapping[str, str]) -> object:
        wanted = given.get("pair", "")
        listings = [self._listed(name) for name in wanted.split(",")] if wanted else self._market.listings
        return {listing.kraken_pair: _pair(listing, *self._market.steps(listing)) for listing in listings}

    def _candles(self, given: Mapping[str, str]) -> object:
        listing, since = self._listed(given.get("pair", "")), _whole(given, "since", 0)
        interval = INTERVALS.get(given.get("interval", "1"))
        if interval is None:
            raise _Refused("EGeneral:Invalid arguments")
        now = self._market.clock.now()
        last = opening(now, interval)
        first = max(last - (CANDLES - 1) * interval, min(since * NANOS_PER_SECOND + 1, last))
        candles = self._market.candles.between(listing.instrument, interval, first, now, now)
        decimals = (candles.open, candles.high, candles.low, candles.close)
        rows = [
            [start // NANOS_PER_SECOND, *map(decimal, prices), _average(quote, volume), decimal(volume), count]
            for start, *prices, quote, volume, count in zip(
                *(
                    column.tolist()
                    for column in (candles.start, *decimals, candles.quote, candles.volume, candles.count)
                ),
                strict=True,
            )
        ]
        return {listing.kraken_pair: rows, "last": (last - interval) // NANOS_PER_SECOND}

    def _trades(self, given: Mapping[str, str]) -> object:
        listing, count = self._listed(given.get("pair", "")), _whole(given, "count", PAGE)
        if not 1 <= count <= PAGE:
            raise _Refused("EGeneral:Invalid arguments")
        tape, now = self._market.tape, self._market.clock.now()
        since = _cursor(given["since"]) if given.get("since") else None
        if since is None:
            trades = tape.newest(listing.instrument, now, count)
        else:
            trades = tape.after(listing.instrument, since, now, count)
        rows = [
            (decimal(price), decimal(size), _seconds(ts), "b" if side > 0 else "s", "m", "", trade_id)
            for ts, trade_id, price, size, side in zip(
                *(column.tolist() for column in (trades.ts, trades.trade_id, trades.price, trades.size, trades.side)),
                strict=True,
            )
        ]
        last = int(trades.cursor[-1]) if len(trades) else now if since is None else since
        return {listing.kraken_pair: rows, "last": str(last)}

    def _listed(self, name: str) -> Listing:
        if not name:
            raise _Refused("EGeneral:Invalid arguments")
        if name not in self._listings:
            raise _Refused("EQuery:Unknown asset pair")
        return self._listings[name]


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    value = given.get(name, "")
    if not re.fullmatch(r"[0-9]{0,19}", value):
        raise _Refused("EGeneral:Invalid arguments")
    return int(value) if value else default


def _cursor(text: str) -> int:
    """Return a ``since`` in ns: it may also be in seconds, with a fraction."""
    if not re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,9})?", text):
        raise _Refused("EGeneral:Invalid arguments")
    whole, _, fraction = text.partition(".")
    if int(whole) >= _SECONDS_UNTIL:
        return min(int(whole), _LATEST)
    return int(whole) * NANOS_PER_SECOND + int(fraction.ljust(9, "0"))


def _seconds(ts: int) -> msgspec.Raw:
    """Return a time as a JSON number of seconds, with digits below the microsecond that the streams do not have."""
    return msgspec.Raw(b"%d.%09d" % (ts // NANOS_PER_SECOND, ts % NANOS_PER_SECOND))


def _average(quote: int, volume: int) -> str:
    """Return the volume-weighted average price; nothing where nothing was traded."""
    return decimal(quote * UNIT // volume) if volume else "0.0"


def _pair(listing: Listing, tick: int, lot: int) -> dict[str, object]:
    return {
        "altname": listing.kraken_altname,
        "wsname": listing.kraken_wsname,
        "aclass_base": "currency",
        "base": listing.kraken_assets[0][0],
        "aclass_quote": "currency",
        "quote": listing.kraken_assets[1][0],
        "lot": "unit",
        "cost_decimals": 8,
        "pair_decimals": _places(tick),
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": decimal(lot),
        "costmin": "0.5",
        "tick_size": decimal(tick),
        "status": "online",
    }


def _places(steps: int) -> int:
    """Return how many decimals a step of price has.

    >>> _places(10_000_000), _places(1)
    (1, 8)
    """
    return len(decimal(steps).partition(".")[2].rstrip("0"))


def _trouble(status: int, seconds: int) -> Response:
    """Return the answer of an exchange that does not want to, or cannot, answer now.

    Its own limit is an error in the envelope; a ban is said by what stands before it, a network that is not its own.
    """
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _enveloped({"error": ["EAPI:Rate limit exceeded"]})
    if status == HTTPStatus.IM_A_TEAPOT:
        return Response(_json({"error_code": 1015}), 429, {"retry-after": str(seconds)}, "application/json")
    return _enveloped({"error": ["EService:Unavailable"]}, status)


def _enveloped(value: object, status: int = 200) -> Response:
    return Response(_json(value), status, media_type="application/json")
