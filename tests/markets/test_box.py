"""The box is one market with a clock: what it tells, when, and how it goes on after a kill."""

from __future__ import annotations

import asyncio
import json

import websockets

from domain.events import NANOS_PER_DAY as DAY
from markets.simulated import Simulated
from tests.markets.box import box_of

BTC, ETH = "simulated:BTC-USD", "simulated:ETH-USD"
OPENS = 20_096 * DAY


def market():
    return Simulated(7, [BTC, ETH], OPENS, 2)


async def frames(url: str, n: int) -> list[dict]:
    async with websockets.connect(url, max_queue=None) as connection:
        return [json.loads(await connection.recv()) for _ in range(n)]


def test_a_stream_at_the_readers_pace_has_every_trade_of_the_source_once_and_in_order():
    source = market()
    with box_of(source, speed=0) as box:
        events = asyncio.run(frames(f"{box.address.stream}/stream?streams=btcusd@trade/ethusd@trade", 5_000))
    trades = source.open({}, 0).poll(5_000, 0)
    names = {"BTCUSD": BTC, "ETHUSD": ETH}
    assert [event["stream"] for event in events[:1]] == [f"{events[0]['data']['s'].lower()}@trade"]
    assert [
        (names[e["s"]], e["T"] * 1_000_000, e["t"], float(e["p"]), float(e["q"]), -1 if e["m"] else 1)
        for e in (event["data"] for event in events)
    ] == [(t.instrument, t.ts_event, t.trade_id, t.price, t.size, t.side) for t in trades]
