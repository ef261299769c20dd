"""Binance's candles and trades, asked of a real server."""

from __future__ import annotations

import asyncio
import json as plain_json
from dataclasses import dataclass
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRecord, Unavailable, UsageError
from domain.events import BUY, NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND, SELL
from markets.binance import Binance
from markets.binance_wire import MS, Kline, candle_table
from markets.rest import RestClient
from markets.source import Resume
from tests.markets.samples import MINUTE, START, decimals
from tests.markets.servers import Slept, json, serving

BTC = "binance:BTC-USDT"


@dataclass
class Exchange:
    """What the server knows: candles by open time, trades by id."""

    now: int = START // MS
    candles: tuple[int, ...] = ()
    step: int = NANOS_PER_MINUTE
    trades: tuple[tuple[int, int], ...] = ()  # (id, ms)
    markets: tuple[tuple[str, str, str], ...] = (("BTC", "USDT", "TRADING"), ("ETH", "USDT", "BREAK"))

    def __call__(self, asked):
        query = asked.params
        match asked.path.removeprefix("/api/v3/"):
            case "time":
                return json(plain_json.dumps({"serverTime": self.now}))
            case "klines":
                low, high = int(query["startTime"]), int(query["endTime"])
                rows = [row(opened, self.step) for opened in self.candles if low <= opened <= high]
                return json(plain_json.dumps(rows[: int(query["limit"])]))
            case "aggTrades":  # looks ahead an hour, as it did for years
                since = int(query["startTime"])
                later = [(i, ms) for i, ms in self.trades if since <= ms < since + 3_600_000]
                return json(plain_json.dumps([{"a": 1, "f": i, "l": i, "T": ms} for i, ms in later[:1]]))
            case "historicalTrades":
                limit, first = int(query["limit"]), query.get("fromId")
                some = [(i, ms) for i, ms in self.trades if first is None or i >= int(first)]
                some = some[-limit:] if first is None else some[:limit]
                return json(plain_json.dumps([past(i, ms) for i, ms in some]))
            case "exchangeInfo":
                wanted = plain_json.loads(query.get("symbols", "[]"))
                known = {base + quote: (base, quote, status) for base, quote, status in self.markets}
                if any(symbol not in known for symbol in wanted):
                    return json('{"code":-1121,"msg":"Invalid symbol."}', 400)
                return json(plain_json.dumps({"symbols": [market(s, *known[s]) for s in wanted or known]}))
        raise AssertionError(asked)


def row(opened: int, step: int) -> list:
    return [
        opened,
        "10.0",
        "12.0",
        "9.0",
        "11.0",
        "3.00000000",
        opened + step // MS - 1,
        "33.0",
        7,
        "1.20000000",
        "1",
        "0",
    ]


def past(trade_id: int, ms: int) -> dict:
    return {"id": trade_id, "price": "4.00000100", "qty": "12.00000000", "quoteQty": "48.000012", "time": ms,
            "isBuyerMaker": trade_id % 2 == 0, "isBestMatch": True}  # fmt: skip


def market(symbol: str, base: str, quote: str, status: str) -> dict:
    return {
        "symbol": symbol,
        "status": status,
        "baseAsset": base,
        "quoteAsset": quote,
        "filters": [],
        "permissions": [],
    }


@pytest.fixture(scope="module")
def server():
    with serving(Exchange()) as running:
        yield running


PAGE = 8


def pages(server, exchange, call, page=1_000) -> list:
    """Return the pages of so many rows that a venue's call yields, or what it returns."""
    server.answer = exchange
    server.asked.clear()

    async def run():
        async with RestClient(server.url, 6_000, timing=Slept().timing) as rest:
            result = call(Binance(), rest)
            return [page async for page in result] if hasattr(result, "__anext__") else await result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("markets.binance._PAGE", page)
        return asyncio.run(run())


def near_minutes(first: int, last: int):
    """Times, ns, many of them on a minute or just beside one."""
    beside = st.sampled_from([0, 0, 1, -1, MS, -MS, 2 * NANOS_PER_SECOND, 2 * NANOS_PER_SECOND - 1])
    return st.builds(lambda minute, ns: minute * MINUTE + ns, st.integers(first, last), beside | st.integers(0, MINUTE))


@settings(max_examples=60, deadline=None)
@given(
    start=near_minutes(-3, 40),
    length=near_minutes(1, 45),
    now=near_minutes(0, 45).map(lambda ns: max(0, ns) // MS),
    absent=st.sets(st.integers(0, 40), max_size=10),
)
def test_candles_are_all_closed_ones_of_the_window_once_and_in_order(server, start, length, now, absent):
    opened = tuple(START // MS + k * 60_000 for k in range(40) if k not in absent)
    exchange = Exchange(START // MS + now, opened)
    start += START
    got = pages(server, exchange, lambda venue, rest: venue.candles(rest, BTC, MINUTE, start, start + length), PAGE)
    ends = [ms * MS + MINUTE for ms in opened]
    settled = (START // MS + now) * MS - 2 * NANOS_PER_SECOND
    assert [ts for page in got for ts in page.ts] == [ts for ts in ends if start < ts <= min(start + length, settled)]
    assert all(0 < len(page) <= PAGE for page in got)


def test_a_candle_of_the_exchange_is_a_whole_bar(server):
    exchange = Exchange(START // MS + 600_000, (START // MS,))
    [page] = pages(server, exchange, lambda venue, rest: venue.candles(rest, BTC, MINUTE, START, START + MINUTE))
    assert page.ts.tolist() == [START + MINUTE]
    assert page.values.tolist() == [[10.0, 12.0, 9.0, 11.0, 3.0, 1.2, 1.8, 11.0, 7.0, 0.0]]


def test_a_candle_without_a_trade_is_missing():
    flat = Kline(START // MS, "5.0", "5.0", "5.0", "5.0", "0.00000000", 0, "0.00000000", 0, "0.00000000")
    assert candle_table([flat], MS, MINUTE).values.tolist() == [[5.0] * 4 + [0.0] * 3 + [5.0, 0.0, 1.0]]


@given(st.lists(st.tuples(decimals(10**5), st.booleans()), min_size=1, max_size=40))
def test_a_candle_has_the_very_volumes_of_its_trades(trades):
    """Sizes summed in units of 1e-8, as bars sum them, against the decimals that the exchange sums."""
    units = {side: sum(float(np.rint(float(size) * 1e8)) for size, taker in trades if taker is side)
             for side in (True, False)}  # fmt: skip
    total = sum(Decimal(size) for size, _ in trades)
    bought = sum((Decimal(size) for size, taker in trades if taker), Decimal(0))
    candle = Kline(0, "1", "1", "1", "1", f"{total:.8f}", 0, "1", len(trades), f"{bought:.8f}")
    [values] = candle_table([candle], MS, MINUTE).values.tolist()
    assert values[4:7] == [(units[True] + units[False]) / 1e8, units[True] / 1e8, units[False] / 1e8]


def test_a_length_that_the_exchange_does_not_have_names_those_it_has(server):
    with pytest.raises(UsageError, match="no candles of 7 s; use one of 1s, 1m, 3m"):
        pages(server, Exchange(), lambda venue, rest: venue.candles(rest, BTC, 7 * NANOS_PER_SECOND, 0, START))


@settings(max_examples=30, deadline=None)
@given(last=st.integers(0, 45), skipped=st.sets(st.integers(1, 40), max_size=20))
def test_trades_after_an_id_come_once_and_in_order_to_the_newest(server, last, skipped):
    trades = tuple((i, START // MS + i * 10) for i in range(1, 41) if i not in skipped)
    got = pages(server, Exchange(trades=trades), lambda venue, rest: venue.trades(rest, BTC, Resume(START, last)), PAGE)
    assert [i for page in got for i in page.trade_id] == [i for i, _ in trades if i > last]
    assert [ts for page in got for ts in page.ts] == [ms * MS for i, ms in trades if i > last]


def test_a_page_is_as_large_as_the_exchange_allows(server):
    trades = tuple((i, START // MS + i) for i in range(1, 2_002))
    got = pages(server, Exchange(trades=trades), lambda venue, rest: venue.trades(rest, BTC, Resume(START, 0)))
    assert [len(page) for page in got] == [1_000, 1_000, 1]


@settings(max_examples=30, deadline=None)
@given(
    after=st.integers(-2 * 3_600_000, 60 * 3_600_000),
    gaps=st.lists(st.sampled_from([0, 0, 1, 50, 3_600_000, 9 * 3_600_000]), min_size=1, max_size=25),
)
def test_trades_after_a_time_are_found_over_hours_without_any(server, after, gaps):
    times = np.cumsum(gaps).tolist()
    trades = tuple((i, START // MS + ms) for i, ms in enumerate(times))
    since = START + after * MS + 999_999
    got = pages(server, Exchange(trades=trades), lambda venue, rest: venue.trades(rest, BTC, Resume(since)), PAGE)
    assert [i for page in got for i in page.trade_id] == [i for i, ms in trades if ms * MS > since]


def test_trades_of_history_have_the_takers_side(server):
    exchange = Exchange(trades=((8, START // MS), (9, START // MS)))
    [page] = pages(server, exchange, lambda venue, rest: venue.trades(rest, BTC, Resume(0, 7)))
    assert page.side.tolist() == [SELL, BUY]
    assert (page.price[0], page.size[0]) == (4.000001, 12.0)


def test_aggregates_without_ids_are_not_believed(server):
    """Some of the first years have the id -1."""
    exchange = Exchange(trades=tuple((i, START // MS + i) for i in range(10)))

    def answer(asked):
        if asked.path.endswith("aggTrades"):
            return json('[{"a":1,"f":-1,"l":-1,"T":1}]')
        return exchange(asked)

    [page] = pages(server, answer, lambda venue, rest: venue.trades(rest, BTC, Resume(START + 3 * MS)))
    assert page.trade_id.tolist() == [4, 5, 6, 7, 8, 9]
    assert all(int(asked.params.get("fromId", 0)) >= 0 for asked in server.asked)


def test_an_aggregate_that_began_earlier_brings_no_earlier_trade(server):
    exchange = Exchange(trades=tuple((i, START // MS + i) for i in range(10)))

    def answer(asked):
        return json('[{"a":1,"f":2,"l":6,"T":1}]') if asked.path.endswith("aggTrades") else exchange(asked)

    [page] = pages(server, answer, lambda venue, rest: venue.trades(rest, BTC, Resume(START + 3 * MS)))
    assert page.trade_id.tolist() == [4, 5, 6, 7, 8, 9]


def test_the_clock_is_the_exchanges(server):
    assert pages(server, Exchange(1_700_000_000_123), lambda venue, rest: venue.now(rest)) == 1_700_000_000_123 * MS


def test_a_traded_symbol_is_checked_alone(server):
    assert pages(server, Exchange(), lambda venue, rest: venue.check(rest, [BTC])) is None
    [request] = server.asked
    assert request.params["symbols"] == '["BTCUSDT"]'


def test_an_unknown_symbol_names_close_ones(server):
    with pytest.raises(UsageError) as caught:
        pages(server, Exchange(), lambda venue, rest: venue.check(rest, [BTC, "binance:BTC-USTD"]))
    assert str(caught.value).startswith("binance:BTC-USTD is not traded on binance; did you mean binance:BTC-USDT or ")


def test_a_halted_symbol_is_unavailable(server):
    with pytest.raises(Unavailable, match=r"binance:ETH-USDT: trading is halted on binance \(BREAK\)"):
        pages(server, Exchange(), lambda venue, rest: venue.check(rest, [BTC, "binance:ETH-USDT"]))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('[{"id":1,"price":"1.0","time":1,"isBuyerMaker":true}]', "`qty`"),
        ('[{"id":1,"price":"1.0","qty":2.0,"time":1,"isBuyerMaker":true}]', "`$[0].qty`"),
        ('[{"id":1,"price":"one","qty":"2.0","time":1,"isBuyerMaker":true}]', "'one'"),
        ('{"trades":[]}', "Expected `array`"),
    ],
)
def test_changed_history_names_the_field(server, body, words):
    with pytest.raises(BadRecord) as caught:
        pages(server, lambda asked: json(body), lambda venue, rest: venue.trades(rest, BTC, Resume(0, 0)))
    assert words in str(caught.value)


def test_a_changed_candle_names_itself():
    good = [START // MS, "1", "1", "1", "1", "1", 0, "1", 1, "1"]
    for place, value in ((1, "x"), (5, "-"), (9, "nan")):
        [spoiled] = msgspec.convert([[*good[:place], value, *good[place + 1 :]]], list[Kline])
        with pytest.raises(BadRecord, match=f"opened at {START // MS}"):
            candle_table([spoiled], MS, MINUTE)


def test_every_length_divides_a_day():
    from markets.binance import INTERVALS

    assert all(NANOS_PER_DAY % interval == 0 for interval in INTERVALS)
