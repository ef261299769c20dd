"""The box's aggregates of Binance: an order's fills as one, the same by request and by stream."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets

from domain.events import NANOS_PER_DAY as DAY
from markets.box.binance_rest import AGGREGATE_IDS_FROM
from markets.recorded import Recorded
from tests.markets.box import box_of
from tests.markets.samples import START, trades, write

pytestmark = pytest.mark.process

MS = 1_000_000


def test_fills_of_one_order_are_one_aggregate_however_they_are_paged(tmp_path):
    rows = trades(12, step=MS)
    rows["ts"] = [START + k * MS for k in (0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4)]
    rows["price"] = [9.0, 9.0, 9.5, 9.5, 9.5, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]
    rows["side"] = ["buy"] * 7 + ["sell"] * 5
    ranges = [(1, 2), (3, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 12)]
    with box_of(Recorded([write(tmp_path / "t.parquet", rows)]), speed=0, opens=START + DAY) as box:
        everything = box.get("/api/v3/aggTrades?symbol=BTCUSD")
        assert [(a["f"], a["l"]) for a in everything] == ranges
        assert [a["a"] - AGGREGATE_IDS_FROM for a in everything] == [first for first, _ in ranges]
        assert everything[0] == {
            "a": AGGREGATE_IDS_FROM + 1, "p": "9.00000000", "q": "1.00000000", "f": 1, "l": 2, "T": START // MS,
            "m": False, "M": True,
        }  # fmt: skip
        for size in range(1, 8):
            got, at = [], 0
            while page := box.get(f"/api/v3/aggTrades?symbol=BTCUSD&fromId={at}&limit={size}"):
                got += page
                at = page[-1]["a"] + 1
            assert got == everything
        assert box.get("/api/v3/aggTrades?symbol=BTCUSD&limit=2") == everything[-2:]
        since = f"startTime={START // MS + 1}&endTime={START // MS + 2}"
        assert [(a["f"], a["l"]) for a in box.get(f"/api/v3/aggTrades?symbol=BTCUSD&{since}")] == ranges[2:5]


def test_a_stream_of_aggregates_tells_what_requests_tell_however_finely_time_passes(tmp_path):
    """Fills of one order share a millisecond, in which the box may look, or a connection begin."""
    rows = trades(600, step=MS // 3)
    rows["ts"] = [ts // 1_000 * 1_000 for ts in rows["ts"]]
    rows["price"] = [9.0 + k // 5 % 2 for k in range(600)]
    rows["side"] = ["buy" if k // 7 % 2 else "sell" for k in range(600)]

    async def read(box):
        async with websockets.connect(f"{box.address.stream}/stream?streams=btcusd@aggTrade/btcusd@trade") as one:
            events = []
            while len(events) < 2 or events[-1]["data"].get("l", events[-1]["data"].get("t")) < 595:
                events.append(json.loads(await asyncio.wait_for(one.recv(), 10)))
            return events

    path = write(tmp_path / "t.parquet", rows)
    with box_of(Recorded([path]), speed=0.2, opens=START + MS // 2) as box:
        events = asyncio.run(read(box))
        everything = box.get("/api/v3/aggTrades?symbol=BTCUSD&limit=1000")
    singles = [event["data"]["t"] for event in events if event["stream"] == "btcusd@trade"]
    told = [event["data"] for event in events if event["stream"] == "btcusd@aggTrade"]
    assert singles == list(range(singles[0], singles[0] + len(singles)))
    assert list(told[0]) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
    assert all(
        (event.pop("e"), event.pop("s"), event.pop("E")) == ("aggTrade", "BTCUSD", event["T"] + 1) for event in told
    )
    assert len(told) > 100
    assert any(event["l"] > event["f"] for event in told)
    begun = next(k for k, event in enumerate(everything) if event["f"] == told[0]["f"])
    assert told == everything[begun : begun + len(told)]
