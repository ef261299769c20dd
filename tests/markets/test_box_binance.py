"""The box as Binance: its REST answers and its streams, to the letter of its documentation."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import websockets

from domain.events import NANOS_PER_DAY as DAY
from domain.events import NANOS_PER_MINUTE as MINUTE
from markets.box.budget import Budget
from tests.markets.box import BTC, OPENS, box_of

pytestmark = pytest.mark.process

MS = 1_000_000
STEPS = 100_000_000


def steps(text):
    whole, _, part = text.partition(".")
    assert len(part) == 8, "eight decimals"
    return int(whole) * STEPS + int(part)


def test_ping_and_time_answer_with_the_markets_clock(box):
    assert box.get("/api/v3/ping") == {}
    assert box.get("/api/v3/time") == {"serverTime": OPENS // MS}


def test_exchange_info_lists_what_is_traded_and_how_finely(box):
    info = box.get("/api/v3/exchangeInfo")
    assert set(info) == {"timezone", "serverTime", "rateLimits", "exchangeFilters", "symbols"}
    assert info["rateLimits"] == [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000}
    ]
    btc, eth = info["symbols"]
    assert (btc["symbol"], btc["baseAsset"], btc["quoteAsset"], btc["status"]) == ("BTCUSD", "BTC", "USD", "TRADING")
    assert btc["filters"][0]["tickSize"] == "0.10000000"
    assert eth["filters"][1]["stepSize"] == "0.00010000"
    assert [s["symbol"] for s in box.get("/api/v3/exchangeInfo?symbol=ETHUSD")["symbols"]] == ["ETHUSD"]
    both = box.get("/api/v3/exchangeInfo?symbols=%5B%22ETHUSD%22,%22BTCUSD%22%5D")["symbols"]
    assert [s["symbol"] for s in both] == ["ETHUSD", "BTCUSD"]


def test_pages_by_id_give_every_trade_of_the_source(box, market):
    [day] = market.history(BTC, OPENS - DAY // 8, OPENS)
    got, at = [], int(day.trade_id[0])
    while page := box.get(f"/api/v3/historicalTrades?symbol=BTCUSD&fromId={at}&limit=1000"):
        got += page
        at = page[-1]["id"] + 1
    assert [
        (t["id"], t["time"], float(t["price"]), float(t["qty"]), -1 if t["isBuyerMaker"] else 1) for t in got
    ] == list(zip(*(c.tolist() for c in (day.trade_id, day.ts // MS, day.price, day.size, day.side)), strict=True))
    assert set(got[0]) == {"id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"}
    assert all(steps(t["quoteQty"]) == steps(t["price"]) * steps(t["qty"]) // STEPS for t in got)
    assert box.get("/api/v3/trades?symbol=BTCUSD") == got[-500:]
    assert box.get(f"/api/v3/historicalTrades?symbol=BTCUSD&fromId={10**18 - 1}") == []
    assert (
        box.get("/api/v3/historicalTrades?symbol=BTCUSD&fromId=0&limit=1")[0]["time"] < (OPENS - 2 * DAY) // MS + 60_000
    )


def test_klines_are_the_exact_sums_of_their_trades(box):
    start = OPENS - 15 * MINUTE
    klines = box.get(f"/api/v3/klines?symbol=ETHUSD&interval=5m&startTime={start // MS}&limit=3")
    trades = box.get("/api/v3/historicalTrades?symbol=ETHUSD&limit=1000")
    trades = [trade for trade in trades if trade["time"] >= start // MS]
    assert [kline[0] for kline in klines] == [(start + k * 5 * MINUTE) // MS for k in range(3)]
    for opened, o, h, low, c, volume, closed, quote, count, taker, taker_quote, unused in klines:
        mine = [t for t in trades if opened <= t["time"] <= closed]
        prices = [t["price"] for t in mine]
        assert closed == opened + 299_999
        assert (o, c, unused) == (prices[0], prices[-1], "0")
        assert (h, low) == (max(prices, key=steps), min(prices, key=steps))
        bought = [t for t in mine if not t["isBuyerMaker"]]
        assert count == len(mine)
        assert steps(volume) == sum(steps(t["qty"]) for t in mine)
        assert steps(quote) == sum(steps(t["quoteQty"]) for t in mine)
        assert steps(taker) == sum(steps(t["qty"]) for t in bought)
        assert steps(taker_quote) == sum(steps(t["quoteQty"]) for t in bought)


def test_klines_page_forward_from_a_start_and_back_from_an_end(box):
    def opens(query):
        return [kline[0] for kline in box.get(f"/api/v3/klines?symbol=BTCUSD&interval=1m&{query}")]

    minute, start = MINUTE // MS, (OPENS - DAY) // MS
    now = OPENS // MS
    assert opens(f"startTime={start}&limit=3") == [start, start + minute, start + 2 * minute]
    assert opens(f"startTime={start - 1}&limit=1") == [start]
    assert opens(f"startTime={start + 1}&limit=1") == [start + minute]
    assert opens(f"endTime={start}&limit=2") == [start - minute, start]
    assert opens(f"startTime={start}&endTime={start + 90_000}") == [start, start + minute]
    assert opens("limit=2") == [now - minute, now]
    assert len(opens("")) == 500
    assert len(opens(f"startTime={start}&limit=5000")) == 1_000
    assert opens(f"startTime={now + minute}") == []
    assert opens(f"startTime={10**18 - 1}") == []
    assert opens("startTime=0&limit=2") == [start - DAY // MS, start - DAY // MS + minute], "the very first"
    assert opens(f"startTime={start * 1_000}&limit=1") == [start], "microseconds are times too"


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("klines?symbol=NOPE&interval=1m", -1121, "Invalid symbol."),
        ("klines?symbol=BTCUSD&interval=7m", -1120, "Invalid interval."),
        ("klines?interval=1m", -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
        ("klines?symbol=btcusd&interval=1m", -1100, "Illegal characters found in parameter 'symbol'"),
        ("trades?symbol=BTCUSD&limit=many", -1100, "Illegal characters found in parameter 'limit'"),
        ("trades?symbol=BTCUSD&limit=0", -1130, "Data sent for parameter 'limit' is not valid."),
        ("trades?symbol=BTCUSD&from=3", -1104, "read '1' parameter(s) but was sent '2'."),
        ("aggTrades?symbol=BTCUSD&fromId=1&startTime=1", -1128, "Combination of optional parameters invalid."),
        ("exchangeInfo?symbols=BTCUSD", -1135, "JSON sent for parameter 'symbols' is not valid"),
        ("exchangeInfo?symbol=NOPE", -1121, "Invalid symbol."),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_as_the_exchange_refuses_it(box, path, code, message):
    status, error, _ = box.refusal(f"/api/v3/{path}")
    assert (status, set(error), error["code"]) == (400, {"code", "msg"}, code)
    assert message in error["msg"]


def test_weights_add_up_until_the_minute_ends():
    wall = [120.0]
    budget = Budget(40, lambda: wall[0])
    waits = []
    for passed, weight in ((0, 20), (30, 20), (15, 2), (14, 2), (1, 25)):
        wall[0] += passed
        waits.append(budget.spend(weight))
    assert waits == [0, 0, 15, 1, 0]
    assert budget.used == 25


def test_beyond_the_budget_is_429_with_the_seconds_to_wait(market):
    with box_of(market, speed=0, weight_a_minute=19) as box:
        assert box.get("/api/v3/ping") == {}
        status, error, headers = box.refusal("/api/v3/exchangeInfo")
    assert (status, error["code"]) == (429, -1003)
    assert "current limit is 19 request weight per 1 MINUTE" in error["msg"]
    assert 1 <= int(headers["Retry-After"]) <= 60
    assert 20 <= int(headers["X-MBX-USED-WEIGHT-1M"]) <= 21


def test_times_are_in_microseconds_where_they_were_asked_for(box):
    from urllib.request import Request, urlopen

    asked = Request(f"{box.url}/api/v3/trades?symbol=BTCUSD&limit=1", headers={"X-MBX-TIME-UNIT": "MICROSECOND"})
    with urlopen(asked, timeout=10) as answer:
        [trade] = json.load(answer)
    assert trade["time"] == 1_000 * box.get("/api/v3/trades?symbol=BTCUSD&limit=1")[0]["time"]


def test_nothing_is_told_that_is_later_than_the_clock(market):
    with box_of(market, speed=3_600, opens=OPENS - DAY) as box:
        for _ in range(10):
            newest = [
                box.get("/api/v3/trades?symbol=BTCUSD&limit=1")[0]["time"],
                box.get("/api/v3/aggTrades?symbol=BTCUSD&limit=1")[0]["T"],
                box.get("/api/v3/historicalTrades?symbol=ETHUSD&limit=1000")[-1]["time"],
                box.get("/api/v3/klines?symbol=BTCUSD&interval=1m&limit=1")[0][0],
            ]
            until = box.get("/api/v3/time")["serverTime"]
            assert max(newest) <= until
            assert until - min(newest) < 3_600_000


@asynccontextmanager
async def connected(box, path):
    async with websockets.connect(box.address.stream + path, max_queue=None) as connection:
        yield connection


async def asked(connection, call):
    """Send a message and return its answer, past the events that come in between."""
    await connection.send(call if isinstance(call, str | bytes) else json.dumps(call))
    while True:
        answer = json.loads(await asyncio.wait_for(connection.recv(), 10))
        if "e" not in answer and "stream" not in answer:
            return answer


def test_a_connection_subscribes_lists_and_unsubscribes(market):
    async def talk(box):
        async with connected(box, "/ws") as one:
            assert await asked(one, {"method": "LIST_SUBSCRIPTIONS", "id": 3}) == {"result": [], "id": 3}
            call = {"method": "SUBSCRIBE", "params": ["btcusd@trade", "nopeusd@trade"], "id": "a1"}
            assert await asked(one, call) == {"result": None, "id": "a1"}
            event = json.loads(await one.recv())
            assert (event["e"], event["s"]) == ("trade", "BTCUSD")
            listed = await asked(one, {"method": "LIST_SUBSCRIPTIONS", "id": 4})
            assert listed["result"] == ["btcusd@trade", "nopeusd@trade"]
            await asked(one, {"method": "UNSUBSCRIBE", "params": ["btcusd@trade"], "id": None})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.recv(), 0.3)

    with box_of(market, speed=600) as box:
        asyncio.run(talk(box))


def test_raw_and_combined_streams_carry_the_same_events(market):
    async def read(box, path, n):
        async with connected(box, path) as one:
            return [json.loads(await one.recv()) for _ in range(n)]

    with box_of(market, speed=0) as box:
        raw = asyncio.run(read(box, "/ws/btcusd@trade/ethusd@trade", 100))
    with box_of(market, speed=0) as box:
        combined = asyncio.run(read(box, "/stream?streams=btcusd@trade/ethusd@trade", 100))
    with box_of(market, speed=0) as box:
        micro = asyncio.run(read(box, "/ws/btcusd@trade/ethusd@trade?timeUnit=MICROSECOND", 100))
    assert [{"stream": f"{event['s'].lower()}@trade", "data": event} for event in raw] == combined
    assert [{**event, "E": event["E"] * 1_000, "T": event["T"] * 1_000} for event in raw] == micro
    assert set(raw[0]) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}
    assert all(event["E"] > event["T"] for event in raw), "the event's time is not the trade's"


def test_a_property_turns_raw_streams_into_combined_ones(market):
    async def talk(box):
        async with connected(box, "/ws/btcusd@trade") as one:
            assert (await asked(one, {"method": "GET_PROPERTY", "params": ["combined"], "id": 2}))["result"] is False
            await asked(one, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 5})
            assert json.loads(await one.recv())["stream"] == "btcusd@trade"

    with box_of(market, speed=600) as box:
        asyncio.run(talk(box))


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("{", 3, "Invalid JSON"),
        (b"\xff", 3, "Invalid JSON"),
        ({"params": []}, 2, "missing required field `method`"),
        ({"method": "SUBSCRIBED", "id": 1}, 2, "unknown variant `SUBSCRIBED`, expected one of `SUBSCRIBE`"),
        ({"method": "GET_PROPERTY", "params": ["nope"], "id": 1}, 0, "Unknown property"),
        ({"method": "SET_PROPERTY", "params": ["combined", "yes"], "id": 1}, 1, "expected Boolean"),
        ({"method": "SUBSCRIBE", "params": [], "id": "no spaces, please"}, 2, "request ID"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(box, call, code, message):
    async def talk():
        async with connected(box, "/ws") as one:
            return await asked(one, call)

    error = asyncio.run(talk())["error"]
    assert error["code"] == code
    assert message in error["msg"]


def test_whoever_sends_more_than_five_messages_a_second_is_disconnected(box):
    async def talk():
        async with connected(box, "/ws") as one:
            answers = 0
            try:
                while True:
                    await asked(one, {"method": "LIST_SUBSCRIPTIONS", "id": answers})
                    answers += 1
            except websockets.ConnectionClosed as closed:
                return answers, closed.rcvd.code

    assert asyncio.run(talk()) == (5, 1008)
