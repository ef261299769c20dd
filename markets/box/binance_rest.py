"""Binance's public REST interface: the routes of its market-data host that history is read from.

References
----------
https://github.com/binance/binance-spot-api-docs (rest-api.md, errors.md)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any, TypeAlias

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND
from domain.tables import Ints
from markets.box.binance_query import MS, PAGE, US, Query, Refused
from markets.box.budget import Budget
from markets.box.candles import Candles, opening
from markets.box.listing import Listing
from markets.box.market import Market, decimal
from markets.box.tape import Booked

INTERVALS = {
    "1s": NANOS_PER_SECOND,
    **{f"{n}m": n * NANOS_PER_MINUTE for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 60 * NANOS_PER_MINUTE for n in (1, 2, 4, 6, 8, 12)},
    "1d": NANOS_PER_DAY,
    "3d": 3 * NANOS_PER_DAY,
    "1w": 7 * NANOS_PER_DAY,
}
"""Lengths of candles, ns. The exchange also has months."""

AGGREGATE_IDS_FROM = 1_000_000_000
"""Ids of aggregates are those of their first trade, counted from elsewhere: as at the exchange they are never equal."""

_json = msgspec.json.Encoder().encode
_Answer: TypeAlias = object


class BinanceRest:
    """Answers of one market.

    Parameters
    ----------
    market
        What was traded.
    budget
        What requests may weigh.
    fault : () -> (status, seconds) or None
        Which error the next request is to be answered with instead, and when it may come again.
    """

    def __init__(self, market: Market, budget: Budget, fault: Callable[[], tuple[int, int] | None]) -> None:
        self._market = market
        self._budget = budget
        self._fault = fault
        self._listings = {listing.binance: listing for listing in market.listings}

    def routes(self) -> list[Route]:
        """Return where it answers."""
        return [
            self._route("ping", 1, lambda _: {}),
            self._route("time", 1, lambda query: {"serverTime": self._market.clock.now() // query.unit}),
            self._route("exchangeInfo", 20, self._exchange_info,
                        "symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"),
            self._route("klines", 2, self._klines, "symbol", "interval", "startTime", "endTime", "timeZone", "limit"),
            self._route("aggTrades", 4, self._compressed, "symbol", "fromId", "startTime", "endTime", "limit"),
            self._route("trades", 25, self._recent, "symbol", "limit"),
            self._route("historicalTrades", 25, self._historical, "symbol", "fromId", "limit"),
        ]  # fmt: skip

    def _route(self, name: str, weight: int, answer: Callable[[Query], _Answer], *known: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return self._answered(request, weight, answer, known)

        return Route(f"/api/v3/{name}", endpoint, methods=["GET"])

    def _answered(
        self, request: Request, weight: int, answer: Callable[[Query], _Answer], known: tuple[str, ...]
    ) -> Response:
        wait = ceil(self._budget.spend(weight))
        fault = self._fault()
        headers = {name: str(self._budget.used) for name in ("x-mbx-used-weight", "x-mbx-used-weight-1m")}
        if fault is not None or wait:
            status, seconds = fault or (429, wait)
            return _trouble(status, seconds, self._budget.limit, headers)
        try:
            unit = US if request.headers.get("x-mbx-time-unit", "").lower() == "microsecond" else MS
            query = Query(request.query_params, unit, self._listings)
            query.only(known)
            return Response(_json(answer(query)), headers=headers, media_type="application/json")
        except Refused as refused:
            return _error(400, refused.code, str(refused), headers)

    def _exchange_info(self, query: Query) -> _Answer:
        wanted = list(self._listings.values())
        if "symbol" in query.given:
            wanted = [query.listing()]
        elif "symbols" in query.given:
            try:
                symbols = msgspec.json.decode(query.given["symbols"], type=list[str])
            except msgspec.MsgspecError:
                raise Refused(-1135, "JSON sent for parameter 'symbols' is not valid") from None
            wanted = [query.listed(symbol) for symbol in symbols]
        limits = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
        return {
            "timezone": "UTC",
            "serverTime": self._market.clock.now() // query.unit,
            "rateLimits": [{**limits, "limit": self._budget.limit}],
            "exchangeFilters": [],
            "symbols": [_symbol(listing, *self._market.steps(listing)) for listing in wanted],
        }

    def _klines(self, query: Query) -> _Answer:
        listing, text = query.listing(), query.text("interval")
        if text not in INTERVALS:
            raise Refused(-1120, "Invalid interval.")
        if query.given.get("timeZone", "0") not in {"0", "00:00"}:
            raise Refused(-1130, "Data sent for parameter 'timeZone' is not valid.")
        interval, limit, now = INTERVALS[text], query.limit(), self._market.clock.now()
        start, end = query.time("startTime"), query.time("endTime")
        last = opening(now if end is None else min(end, now), interval)
        if start is None:
            start = last - (limit - 1) * interval
        else:
            start = max(start, opening(self._market.tape.begins(listing.instrument), interval))
            last = min(last, opening(start - 1, interval) + limit * interval)
        candles = self._market.candles.between(listing.instrument, interval, start, last, now)
        return kline_rows(candles, interval, query.unit)

    def _recent(self, query: Query) -> _Answer:
        instrument, now = query.listing().instrument, self._market.clock.now()
        return trade_rows(self._market.tape.newest(instrument, now, query.limit()), query.unit)

    def _historical(self, query: Query) -> _Answer:
        from_id = query.number("fromId")
        if from_id is None:
            return self._recent(query)
        instrument, now = query.listing().instrument, self._market.clock.now()
        return trade_rows(self._market.tape.from_id(instrument, from_id, now, query.limit()), query.unit)

    def _compressed(self, query: Query) -> _Answer:
        instrument, now, limit = query.listing().instrument, self._market.clock.now(), query.limit()
        tape, from_id, end = self._market.tape, query.number("fromId"), query.time("endTime")
        start = query.time("startTime")
        if from_id is not None and (start, end) != (None, None):
            raise Refused(-1128, "Combination of optional parameters invalid.")
        until = now if end is None else min(now, end + MS - 1)
        more = limit + PAGE  # an aggregate has few trades, so this many hold a page of them and the end of its last one
        if from_id is not None:
            # The trade before tells whether the first one wanted begins an aggregate or goes on with one.
            trades = tape.from_id(instrument, from_id - AGGREGATE_IDS_FROM - 1, now, more)
            found = aggregates(trades, query.unit)
            return [aggregate for aggregate in found if aggregate["a"] >= from_id][:limit]
        if start is not None:
            return aggregates(tape.first(instrument, start, until, more), query.unit)[:limit]
        return aggregates(tape.newest(instrument, until, more), query.unit)[-limit:]


def kline_rows(candles: Candles, interval: int, unit: int) -> list[list[object]]:
    """Return candles as the exchange writes them: their length and the unit of their times in ns."""
    decimals = (
        candles.open, candles.high, candles.low, candles.close,
        candles.volume, candles.quote, candles.taker_volume, candles.taker_quote,
    )  # fmt: skip
    length = interval // unit
    return [
        [start, o, h, low, c, v, start + length - 1, q, count, taker_v, taker_q, "0"]
        for start, count, o, h, low, c, v, q, taker_v, taker_q in zip(
            (candles.start // unit).tolist(), candles.count.tolist(), *map(_decimals, decimals), strict=True
        )
    ]


def trade_rows(trades: Booked, unit: int) -> list[dict[str, object]]:
    """Return trades as the exchange writes them, the unit of their times in ns."""
    columns = (trades.trade_id, trades.ts // unit, trades.side)
    decimals = (trades.price, trades.size, trades.quote)
    return [
        {"id": t, "price": p, "qty": q, "quoteQty": quote, "time": ts, "isBuyerMaker": side < 0, "isBestMatch": True}
        for t, ts, side, p, q, quote in zip(
            *(column.tolist() for column in columns), *map(_decimals, decimals), strict=True
        )
    ]


def aggregates(trades: Booked, unit: int) -> list[dict[str, Any]]:
    """Return trades of one millisecond, price and side as one, which is how the exchange tells of one order's fills."""
    if not len(trades):
        return []
    same = trades.ts // MS, trades.price, trades.side, trades.trade_id - np.arange(len(trades))
    differ = [np.diff(column, prepend=column[:1] - 1) != 0 for column in same]
    at = np.flatnonzero(np.logical_or.reduce(differ))
    first, last = trades.trade_id[at], trades.trade_id[np.append(at[1:], len(trades)) - 1]
    columns = (first, last, trades.ts[at] // unit, trades.side[at])
    decimals = (trades.price[at], np.add.reduceat(trades.size, at))
    return [
        {"a": f + AGGREGATE_IDS_FROM, "p": p, "q": q, "f": f, "l": to, "T": ts, "m": side < 0, "M": True}
        for f, to, ts, side, p, q in zip(
            *(column.tolist() for column in columns), *map(_decimals, decimals), strict=True
        )
    ]


def _decimals(steps: Ints) -> list[str]:
    return list(map(decimal, steps.tolist()))


def _error(status: int, code: int, message: str, headers: Mapping[str, str]) -> Response:
    return Response(_json({"code": code, "msg": message}), status, dict(headers), "application/json")


def _trouble(status: int, seconds: int, limit: int, headers: Mapping[str, str]) -> Response:
    """Return the answer of an exchange that does not want to, or cannot, answer now."""
    advice = "Please use WebSocket Streams for live updates to avoid"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        used = f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE."
        code, message = -1003, f"{used} {advice} polling the API."
    elif status == HTTPStatus.IM_A_TEAPOT:
        until = int((time.time() + seconds) * 1000)
        code, message = -1003, f"Way too much request weight used; IP banned until {until}. {advice} bans."
    else:
        return _error(status, -1008, "Server is currently overloaded with other requests.", headers)
    return _error(status, code, message, {**headers, "retry-after": str(seconds)})


def _symbol(listing: Listing, tick: int, lot: int) -> dict[str, object]:
    most = decimal(10**17)
    return {
        "symbol": listing.binance,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [
            "LIMIT",
            "LIMIT_MAKER",
            "MARKET",
            "STOP_LOSS",
            "STOP_LOSS_LIMIT",
            "TAKE_PROFIT",
            "TAKE_PROFIT_LIMIT",
        ],
        **dict.fromkeys(_ALLOWED, True),
        **dict.fromkeys(_FORBIDDEN, False),
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": decimal(tick), "maxPrice": most, "tickSize": decimal(tick)},
            {"filterType": "LOT_SIZE", "minQty": decimal(lot), "maxQty": most, "stepSize": decimal(lot)},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


_ALLOWED = (
    "icebergAllowed",
    "ocoAllowed",
    "otoAllowed",
    "opoAllowed",
    "quoteOrderQtyMarketAllowed",
    "pegInstructionsAllowed",
    "isSpotTradingAllowed",
)
_FORBIDDEN = ("allowTrailingStop", "cancelReplaceAllowed", "amendAllowed", "isMarginTradingAllowed")
