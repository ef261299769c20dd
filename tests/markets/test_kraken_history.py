"""Kraken's candles and trades, asked of a real server."""

from __future__ import annotations

import asyncio
import json as plain_json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRecord, Unavailable, UsageError
from domain.events import BUY, NANOS_PER_MINUTE, NANOS_PER_SECOND, SELL
from markets.kraken import Kraken
from markets.rest import RestClient
from markets.source import Resume
from tests.markets.samples import START
from tests.markets.servers import Slept, json, serving

pytestmark = pytest.mark.process

BTC = "kraken:BTC-USD"
SECOND = START // NANOS_PER_SECOND


@dataclass
class Exchange:
    """What the server knows: trades as (id, ns), candles by the second of their opening."""

    now: int = SECOND
    trades: tuple[tuple[int, int], ...] = ()
    candles: tuple[int, ...] = ()
    inclusive: bool = False
    status: str = "online"
    pairs: tuple[tuple[str, str, str], ...] = (("XBTUSD", "XBT/USD", "online"), ("ETHUSD", "ETH/USD", "post_only"))

    def __call__(self, asked):
        query = asked.params
        match asked.path.removeprefix("/0/public/"):
            case "Time":
                return result({"unixtime": self.now, "rfc1123": "Tue, 14 Nov 23 00:00:00 +0000"})
            case "SystemStatus":
                return result({"status": self.status, "timestamp": "2023-11-14T00:00:00Z"})
            case "AssetPairs":
                known = {alt: {"altname": alt, "wsname": ws, "status": status} for alt, ws, status in self.pairs}
                wanted = query["pair"].split(",") if "pair" in query else list(known)
                if any(alt not in known for alt in wanted):
                    return json('{"error":["EQuery:Unknown asset pair"]}')
                return result({f"X{alt[:3]}Z{alt[3:]}": known[alt] for alt in wanted})
            case "OHLC":
                newest = [k for k in self.candles if k <= self.now][-720:]
                rows = [[k, "10.0", "12.0", "9.0", "11.0", "10.5", "3.00000000", 7] for k in newest]
                rows = [row for row in rows if row[0] > int(query["since"])]
                return result({"XXBTZUSD": rows, "last": newest[-2] if len(newest) > 1 else 0})
            case "Trades":
                since = int(query["since"]) - self.inclusive
                rows = [(i, ns) for i, ns in self.trades if ns > since][: int(query["count"])]
                # Times of trades have fewer digits than the cursor.
                told = [["4.5", "2.0", f"{ns // 10**9}.{ns % 10**9 // 100:07d}", "b", "m", "", i] for i, ns in rows]
                body = plain_json.dumps(told)
                for row in told:
                    body = body.replace(f'"{row[2]}"', row[2])
                last = rows[-1][1] if rows else since + self.inclusive
                return json(f'{{"error":[],"result":{{"XXBTZUSD":{body},"last":"{last}"}}}}')
        raise AssertionError(asked)


def result(answer) -> object:
    return json(plain_json.dumps({"error": [], "result": answer}))


@pytest.fixture(scope="module")
def server():
    with serving(Exchange()) as running:
        yield running


def pages(server, exchange, call, page=1_000, slept=None) -> list:
    """Return the pages of so many rows that a venue's call yields, or what it returns."""
    server.answer = exchange
    server.asked.clear()

    async def run():
        async with RestClient(server.url, 60, timing=(slept or Slept()).timing) as rest:
            result = call(Kraken(), rest)
            return [page async for page in result] if hasattr(result, "__anext__") else await result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("markets.kraken._PAGE", page)
        return asyncio.run(run())


def steps(largest: int):
    """Steps from a trade to the next, ns, as often as not none: at most so many trades have one time."""
    groups = st.tuples(st.integers(100, 3_000_000_000), st.integers(1, largest))
    return st.lists(groups, max_size=12).map(
        lambda groups: [step for step, size in groups for step in [step // 100 * 100] + [0] * (size - 1)]
    )


def numbered(steps) -> tuple[tuple[int, int], ...]:
    ns, trades = START, []
    for number, step in enumerate(steps, 1):
        ns += step
        trades.append((number, ns))
    return tuple(trades)


def streamed(ns: int) -> int:
    """Return a time as the stream shows it."""
    return ns // 1_000 * 1_000


@settings(max_examples=60, deadline=None)
@given(steps=steps(4), inclusive=st.booleans(), data=st.data())
def test_pages_that_end_within_one_time_neither_lose_nor_double_a_trade(server, steps, inclusive, data):
    """Whether the exchange's cursor includes its own time or not, and wherever the reader stopped."""
    trades = numbered(steps)
    stop = data.draw(st.integers(0, len(trades)))
    after = Resume(trades[stop - 1][1] + data.draw(st.integers(-1_000, 1_000)), stop) if stop else Resume(START, 0)
    got = pages(server, Exchange(trades=trades, inclusive=inclusive),
                lambda venue, rest: venue.trades(rest, BTC, after), 5)  # fmt: skip
    assert [i for page in got for i in page.trade_id] == [i for i, _ in trades[stop:]]
    assert [ts for page in got for ts in page.ts] == [streamed(ns) for _, ns in trades[stop:]]


@settings(max_examples=30, deadline=None)
@given(steps=steps(4), inclusive=st.booleans(), after=st.integers(-10, 12_000_000_000))
def test_trades_after_a_time_are_all_later_ones(server, steps, inclusive, after):
    trades = numbered(steps)
    got = pages(server, Exchange(trades=trades, inclusive=inclusive),
                lambda venue, rest: venue.trades(rest, BTC, Resume(START + after)), 5)  # fmt: skip
    assert [i for page in got for i in page.trade_id] == [i for i, ns in trades if streamed(ns) > START + after]


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("crowd", [4, 5, 6, 9, 10, 23])
def test_more_trades_at_one_time_than_a_page_holds_are_said_and_never_skipped(server, inclusive, crowd):
    trades = numbered([100, 200, *[0] * (crowd - 1), 300, 400])
    seen = []

    async def collect(venue, rest):
        async for page in venue.trades(rest, BTC, Resume(START, 0)):
            seen.extend(page.trade_id.tolist())

    exchange = Exchange(trades=trades, inclusive=inclusive)
    if crowd < 5 or (crowd == 5 and not inclusive):
        pages(server, exchange, collect, 5)
        assert len(seen) == len(trades)
    else:
        with pytest.raises(Unavailable, match="5 trades or more at"):
            pages(server, exchange, collect, 5)
    assert seen == [i for i, _ in trades][: len(seen)]
    assert len(server.asked) < 10


def test_trades_of_history_have_the_takers_side_and_the_times_of_the_stream(server):
    first = '["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952]'
    other = '["30243.30000","0.00376960",1688669598.280411234,"s","l","",61044953,"new"]'
    body = f"[{first},{other}]"
    answer = json(f'{{"error":[],"result":{{"XXBTZUSD":{body},"last":"1688671969993150842"}}}}')
    [page] = pages(server, lambda asked: answer, lambda venue, rest: venue.trades(rest, BTC, Resume(0, 0)))
    assert page.ts.tolist() == [1_688_669_597_827_736_000, 1_688_669_598_280_411_000]
    assert page.side.tolist() == [BUY, SELL]
    assert page.price.tolist() == [30_243.4, 30_243.3]
    assert page.size.tolist() == [0.34507674, 0.0037696]


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(-900 * 60, 60), length=st.integers(1, 900 * 60), now=st.integers(-600, 600),
    absent=st.sets(st.integers(0, 900)),
)  # fmt: skip
def test_candles_are_the_closed_ones_of_the_newest(server, start, length, now, absent):
    opened = tuple(SECOND + 60 * k for k in range(-900, 20) if k + 900 not in absent)
    first, last = (SECOND + start) * NANOS_PER_SECOND, (SECOND + start + length) * NANOS_PER_SECOND
    got = pages(server, Exchange(SECOND + now, candles=opened),
                lambda venue, rest: venue.candles(rest, BTC, NANOS_PER_MINUTE, first, last))  # fmt: skip
    held = [k for k in opened if k <= SECOND + now][-720:]
    ends = [(k + 60) * NANOS_PER_SECOND for k in held if k + 60 <= SECOND + now]
    assert [ts for page in got for ts in page.ts] == [ts for ts in ends if first < ts <= last]


def test_a_candle_does_not_tell_what_takers_did(server):
    exchange = Exchange(SECOND + 120, candles=(SECOND, SECOND + 60, SECOND + 120))
    [page] = pages(server, exchange, lambda venue, rest: venue.candles(
        rest, BTC, NANOS_PER_MINUTE, START, START + NANOS_PER_MINUTE))  # fmt: skip
    assert page.values.tolist() == [[10.0, 12.0, 9.0, 11.0, 3.0, 0.0, 0.0, 10.5, 7.0, 0.0]]


def test_a_minute_without_a_trade_is_missing(server):
    rows = [[SECOND, "5.0", "5.0", "5.0", "5.0", "0.0", "0.00000000", 0]]

    def answer(asked):
        return result({"XXBTZUSD": rows, "last": SECOND} if asked.path.endswith("OHLC") else {"unixtime": SECOND + 60})

    [page] = pages(server, answer, lambda venue, rest: venue.candles(rest, BTC, NANOS_PER_MINUTE, 0, 2 * START))
    assert page.values.tolist() == [[5.0] * 4 + [0.0] * 3 + [5.0, 0.0, 1.0]]


def test_a_length_that_the_exchange_does_not_have_names_those_it_has(server):
    with pytest.raises(UsageError, match="no candles of 1 s; use one of 1m, 5m, 15m"):
        pages(server, Exchange(), lambda venue, rest: venue.candles(rest, BTC, NANOS_PER_SECOND, 0, START))


def now(venue, rest):
    return venue.now(rest)


@pytest.mark.parametrize(
    "error", ["EAPI:Rate limit exceeded", "EGeneral:Temporary lockout", "EService:Unavailable", "EService:Busy"]
)
def test_errors_that_pass_are_waited_out(server, error):
    """An answer of 200 that is an error: the next request waits until the whole budget is back."""
    slept = Slept()
    server.script = [json(plain_json.dumps({"error": [error]}))] * 3
    assert pages(server, Exchange(), now, slept=slept) == START
    assert len(server.asked) == 4
    assert sum(slept.waits) == pytest.approx((1 + 15 + 15) / 0.75)


def test_errors_that_do_not_pass_are_unavailable_in_the_end(server):
    def busy(asked):
        return json('{"error":["EService:Busy"]}')

    with pytest.raises(Unavailable, match="kraken does not answer Time: EService:Busy; try again later"):
        pages(server, busy, now)
    assert len(server.asked) == 5


def test_a_refused_request_is_said_in_the_exchanges_words(server):
    def unknown(asked):
        return json('{"error":["EQuery:Unknown asset pair"]}')

    with pytest.raises(UsageError, match=r"kraken refuses Trades pair=XBTUSD .*: EQuery:Unknown asset pair"):
        pages(server, unknown, lambda venue, rest: venue.trades(rest, BTC, Resume(0, 0)))
    assert len(server.asked) == 1


def test_a_warning_is_no_error(server):
    assert pages(server, lambda asked: json('{"error":["WGeneral:x"],"result":{"unixtime":5}}'), now) == 5 * 10**9


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error":[],"result":{"XXBTZUSD":[["1","2",1.5,"b","m",""]],"last":"1"}}', "length"),
        ('{"error":[],"result":{"XXBTZUSD":[["1",2.0,1.5,"b","m","",1]],"last":"1"}}', "`$[0][1]`"),
        ('{"error":[],"result":{"XXBTZUSD":[["1","2","1.5","b","m","",1]],"last":"1"}}', "no time"),
        ('{"error":[],"result":{"XXBTZUSD":[["x","2",1.5,"b","m","",1]],"last":"1"}}', "'x'"),
        ('{"error":[],"result":{"XXBTZUSD":[]}}', "last"),
        ('{"result":{}}', "`error`"),
    ],
)
def test_changed_history_is_named(server, body, words):
    with pytest.raises(BadRecord) as caught:
        pages(server, lambda asked: json(body), lambda venue, rest: venue.trades(rest, BTC, Resume(0, 0)))
    assert words in str(caught.value)


def checked(server, exchange, *instruments):
    return pages(server, exchange, lambda venue, rest: venue.check(rest, instruments))


def test_a_traded_pair_is_checked_alone(server):
    assert checked(server, Exchange(), BTC) is None
    assert [asked.params.get("pair") for asked in server.asked] == [None, "XBTUSD"]


def test_an_unknown_pair_names_close_ones(server):
    with pytest.raises(UsageError, match=r"kraken:BTC-UDS is not traded on kraken; did you mean kraken:BTC-USD"):
        checked(server, Exchange(), BTC, "kraken:BTC-UDS")


def test_a_halted_pair_or_exchange_is_unavailable(server):
    with pytest.raises(Unavailable, match=r"kraken:ETH-USD: trading is halted on kraken \(post_only\)"):
        checked(server, Exchange(), "kraken:ETH-USD")
    with pytest.raises(Unavailable, match=r"trading is halted on kraken \(maintenance\)"):
        checked(server, Exchange(status="maintenance"), BTC)
