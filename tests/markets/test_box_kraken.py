"""The box as Kraken: its REST envelope and cursors, and the trade channel of its WebSocket, version 2."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
import websockets

from domain.events import NANOS_PER_DAY as DAY
from domain.events import NANOS_PER_MINUTE as MINUTE
from markets.recorded import Recorded
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.samples import START, trades, write

pytestmark = pytest.mark.process

SECOND = 1_000_000_000


def result(box, path):
    answer = box.get(f"/0/public/{path}")
    assert answer["error"] == []
    return answer["result"]


def test_time_and_status_are_the_markets(box):
    assert result(box, "Time") == {"unixtime": OPENS // SECOND, "rfc1123": "Wed, 08 Jan 25 00:00:00 +0000"}
    assert result(box, "SystemStatus") == {"status": "online", "timestamp": "2025-01-08T00:00:00Z"}


def test_pairs_and_assets_have_their_three_names(box):
    pairs = result(box, "AssetPairs")
    assert list(pairs) == ["XXBTZUSD", "XETHZUSD"]
    btc = pairs["XXBTZUSD"]
    assert [btc[k] for k in ("altname", "wsname", "base", "quote")] == ["XBTUSD", "XBT/USD", "XXBT", "ZUSD"]
    assert (btc["pair_decimals"], btc["tick_size"], btc["status"]) == (1, "0.10000000", "online")
    assert list(result(box, "AssetPairs?pair=ETHUSD")) == ["XETHZUSD"]
    assert {key: asset["altname"] for key, asset in result(box, "Assets").items()} == {
        "XXBT": "XBT", "ZUSD": "USD", "XETH": "ETH",
    }  # fmt: skip
    assert list(result(box, "Assets?asset=XBT,ZUSD")) == ["XXBT", "ZUSD"]


@pytest.mark.parametrize("name", ["XBTUSD", "XXBTZUSD", "XBT/USD", "BTC/USD"])
def test_a_pair_answers_to_each_of_its_names(box, name):
    assert list(result(box, f"Trades?pair={name}&count=1")) == ["XXBTZUSD", "last"]


def paged(box, since, count, pair="XBTUSD"):
    """Return all trades from a cursor on, as the exchange's own paging finds them."""
    rows = []
    while True:
        page = result(box, f"Trades?pair={pair}&since={since}&count={count}")
        [key] = set(page) - {"last"}
        rows += page[key]
        if len(page[key]) < count:
            return rows
        since = page["last"]


def test_pages_by_cursor_give_every_trade_of_the_source(box, market):
    begins = OPENS - DAY // 24
    [hour] = market.history(BTC, begins, OPENS)
    rows = paged(box, begins - 1, 1_000)
    assert [(float(p), float(q), round(at * 1e6) * 1_000, side, n) for p, q, at, side, _, _, n in rows] == [
        (p, q, ts, "b" if side > 0 else "s", n)
        for p, q, ts, side, n in zip(
            *(c.tolist() for c in (hour.price, hour.size, hour.ts, hour.side, hour.trade_id)), strict=True
        )
    ]
    assert [row[6] for row in result(box, "Trades?pair=XBTUSD")["XXBTZUSD"]] == hour.trade_id[-1_000:].tolist()


def test_no_page_ends_between_trades_at_the_same_time(tmp_path):
    rows = trades(30, step=SECOND)
    rows["ts"] = [START + k // 7 * 1_000_000 for k in range(30)]
    with box_of(Recorded([write(tmp_path / "t.parquet", rows)]), speed=0, opens=START + DAY) as box:
        for count in (1, 2, 7, 29):
            assert [row[6] for row in paged(box, 0, count)] == list(range(1, 31))
        assert paged(box, 10**19 - 1, 1_000) == []
        seconds = START // SECOND
        assert len(paged(box, seconds, 1_000)) == 29, "a time without nanoseconds is in seconds, and exclusive"
        assert len(paged(box, f"{seconds}.002", 1_000)) == 30 - 15


def test_candles_are_the_last_720_with_the_open_one_at_the_end(box):
    answer = result(box, "OHLC?pair=XBTUSD&interval=1")
    rows = answer["XXBTZUSD"]
    assert [row[0] for row in rows] == [(OPENS - k * MINUTE) // SECOND for k in range(719, -1, -1)]
    assert answer["last"] == rows[-2][0]
    newer = result(box, f"OHLC?pair=XBTUSD&interval=1&since={rows[-3][0]}")["XXBTZUSD"]
    assert newer == rows[-2:]
    assert result(box, f"OHLC?pair=XBTUSD&interval=1&since={rows[-1][0]}")["XXBTZUSD"] == rows[-1:]


def test_candles_agree_with_the_other_exchange_of_the_same_market(box):
    start = (OPENS - 60 * MINUTE) // 1_000_000
    theirs = box.get(f"/api/v3/klines?symbol=ETHUSD&interval=5m&startTime={start}&limit=12")
    ours = result(box, f"OHLC?pair=ETHUSD&interval=5&since={start // 1_000 - 1}")["XETHZUSD"][:12]
    assert [[row[0] * 1_000, *row[1:5], row[6], row[7]] for row in ours] == [[*k[:6], k[8]] for k in theirs]
    for row, kline in zip(ours, theirs, strict=True):
        assert float(row[5]) == pytest.approx(float(kline[7]) / float(kline[5]), rel=1e-9), "vwap"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("Trades?pair=NOPE", "EQuery:Unknown asset pair"),
        ("Trades", "EGeneral:Invalid arguments"),
        ("Trades?pair=XBTUSD&since=yesterday", "EGeneral:Invalid arguments"),
        ("Trades?pair=XBTUSD&count=1001", "EGeneral:Invalid arguments"),
        ("OHLC?pair=XBTUSD&interval=7", "EGeneral:Invalid arguments"),
        ("AssetPairs?pair=XBTUSD,NOPE", "EQuery:Unknown asset pair"),
        ("Assets?asset=XBT,NOPE", "EQuery:Unknown asset"),
    ],
)
def test_an_error_is_in_the_envelope(box, path, error):
    assert box.get(f"/0/public/{path}") == {"error": [error]}


@asynccontextmanager
async def connected(box):
    async with websockets.connect(f"{box.address.stream}/v2", max_queue=None) as connection:
        status = json.loads(await connection.recv())
        assert (status["channel"], status["type"]) == ("status", "update")
        assert {k: v for k, v in status["data"][0].items() if k in {"system", "api_version"}} == {
            "system": "online",
            "api_version": "v2",
        }
        yield connection


async def heard(connection):
    return json.loads(await asyncio.wait_for(connection.recv(), 10))


def subscription(*symbols, snapshot=False, method="subscribe", **more):
    return json.dumps(
        {"method": method, "params": {"channel": "trade", "symbol": symbols, "snapshot": snapshot}, **more}
    )


def test_every_trade_comes_once_and_in_order_after_an_acknowledgement_a_symbol(market):
    async def read(box):
        async with connected(box) as one:
            await one.send(subscription("BTC/USD", "ETH/USD", req_id=8))
            acks = [await heard(one), await heard(one)]
            frames = []
            while sum(len(frame["data"]) for frame in frames) < 3_000:
                frames.append(await heard(one))
            return acks, frames

    with box_of(market, speed=0) as box:
        acks, frames = asyncio.run(read(box))
    for ack, symbol in zip(acks, ("BTC/USD", "ETH/USD"), strict=True):
        assert set(ack) == {"method", "req_id", "result", "success", "time_in", "time_out"}
        assert (ack["method"], ack["req_id"], ack["success"]) == ("subscribe", 8, True)
        assert ack["result"] == {"channel": "trade", "symbol": symbol, "snapshot": False}
    rows = [row for frame in frames for row in frame["data"]]
    assert {(frame["channel"], frame["type"]) for frame in frames} == {("trade", "update")}
    assert all(len({row["symbol"] for row in frame["data"]}) == 1 for frame in frames), "a symbol a frame"
    assert any(len(frame["data"]) > 1 for frame in frames), "several trades share a frame"
    names = {"BTC/USD": BTC, "ETH/USD": ETH}
    assert [
        (
            names[r["symbol"]], round(datetime.fromisoformat(r["timestamp"]).timestamp() * 1e6) * 1_000, r["trade_id"],
            r["price"], r["qty"], {"buy": 1, "sell": -1}[r["side"]],
        )
        for r in rows
    ] == [
        (t.instrument, t.ts_event, t.trade_id, t.price, t.size, t.side)
        for t in market.open({}, 0).poll(len(rows), 0)
    ]  # fmt: skip


def test_a_snapshot_is_the_last_fifty_and_what_follows_is_what_comes_next(market):
    async def read(box):
        async with connected(box) as one:
            await one.send(subscription("ETH/USD", snapshot=True))
            return [await heard(one) for _ in range(12)]

    with box_of(market, speed=600) as box:
        ack, snapshot, *updates = asyncio.run(read(box))
    assert ack["result"]["snapshot"] is True
    assert (snapshot["type"], len(snapshot["data"])) == ("snapshot", 50)
    assert {update["type"] for update in updates} == {"update"}
    ids = [row["trade_id"] for frame in (snapshot, *updates) for row in frame["data"]]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_it_beats_each_second_in_which_nothing_was_traded(tmp_path):
    silent = Recorded([write(tmp_path / "t.parquet", trades(6, step=DAY))])

    async def read(box):
        async with connected(box) as one:
            with pytest.raises(TimeoutError):  # nothing beats before something was subscribed to
                await asyncio.wait_for(one.recv(), 1.5)
            await one.send(subscription("BTC/USD"))
            await heard(one)
            return await heard(one), await heard(one)

    with box_of(silent, speed=1, opens=START + 1) as box:
        assert asyncio.run(read(box)) == ({"channel": "heartbeat"}, {"channel": "heartbeat"})


def test_it_does_not_beat_while_trades_come(market):
    async def read(box):
        async with connected(box) as one:
            await one.send(subscription("BTC/USD", "ETH/USD"))
            await heard(one), await heard(one)
            channels, until = set(), time.monotonic() + 1.3
            while time.monotonic() < until:
                channels.add((await heard(one))["channel"])
            return channels

    with box_of(market, speed=600) as box:
        assert asyncio.run(read(box)) == {"trade"}


def test_pings_are_answered_and_unsubscribing_ends_the_trades(market):
    async def talk(box):
        async with connected(box) as one:
            await one.send('{"method":"ping","req_id":101}')
            pong = await heard(one)
            await one.send(subscription("BTC/USD"))
            await heard(one)
            assert (await heard(one))["channel"] == "trade"
            await one.send(subscription("BTC/USD", method="unsubscribe"))
            while (ack := await heard(one)).get("method") != "unsubscribe":
                pass
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.recv(), 0.3)
            return pong, ack

    with box_of(market, speed=600) as box:
        pong, ack = asyncio.run(talk(box))
    assert (pong["method"], pong["req_id"]) == ("pong", 101)
    assert ack["success"]
    assert ack["result"] == {"channel": "trade", "symbol": "BTC/USD"}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([subscription("NOPE/USD")], "Currency pair not supported NOPE/USD"),
        ([subscription("BTC/USD"), subscription("BTC/USD")], "Already subscribed"),
        ([subscription("BTC/USD", method="unsubscribe")], "Subscription Not Found"),
        (['{"method":"subscribe","params":{"channel":"nope"}}'], "Channel nope not supported"),
        (['{"method":"nope"}'], "Method nope not supported"),
        (["{"], "Malformed request"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(market, messages, error):
    async def talk(box):
        async with connected(box) as one:
            for message in messages:
                await one.send(message)
            while "error" not in (answer := await heard(one)):
                pass
            return answer

    with box_of(market, speed=60) as box:
        answer = asyncio.run(talk(box))
    assert answer["success"] is False
    assert error in answer["error"]
