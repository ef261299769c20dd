"""What goes wrong in the box, one kind at a time: the streams suffer, and REST knows every trade all the same."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from urllib.error import HTTPError

import pytest
import websockets

from domain.errors import UsageError
from markets.box.faults import KINDS, Faults
from markets.simulated import Simulated
from tests.markets.box import BTC, ETH, OPENS, box_of

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC, ETH], OPENS, 1)


async def heard(connection, patience=10):
    return json.loads(await asyncio.wait_for(connection.recv(), patience))


def settled(box):
    """Return the market's time when all faults have happened."""
    deadline = time.monotonic() + 10
    while (state := box.state())["faults_pending"]:
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return state["now"]


def watched(box, *faults, path="/ws/btcusd@trade/ethusd@trade", symbols=()):
    """Return the frames of a connection from before some faults until after them, of each of some symbols too."""

    async def watch():
        async with websockets.connect(box.address.stream + path, max_queue=None) as one:
            frames = [await heard(one)]
            while not {frame["s"] for frame in frames}.issuperset(symbols):
                frames.append(await heard(one))
            for kind, amount in faults:
                await asyncio.to_thread(box.fault, kind, amount)
            happened = await asyncio.to_thread(settled, box)
            while frames[-1].get("T", 0) * 1_000_000 <= happened:
                frames.append(await heard(one))
            while not {f["s"] for f in frames if f["T"] * 1_000_000 > happened}.issuperset(symbols):
                frames.append(await heard(one))
            return frames

    return asyncio.run(watch())


def ids_of(frames):
    """Return the ids of each symbol, in the order of the frames."""
    return {symbol: [frame["t"] for frame in frames if frame["s"] == symbol] for symbol in ("BTCUSD", "ETHUSD")}


def missing(frames):
    """Return the ids that each symbol's frames leave out."""
    return {symbol: set(range(min(ids), max(ids) + 1)) - set(ids) for symbol, ids in ids_of(frames).items() if ids}


def test_dropped_trades_are_missing_from_the_stream_and_known_to_rest(market):
    with box_of(market, speed=600) as box:
        frames = watched(box, ("drop", 5), symbols=("BTCUSD", "ETHUSD"))
        lost = missing(frames)
        assert sum(map(len, lost.values())) == 5
        for symbol, ids in lost.items():
            for one in ids:
                [trade] = box.get(f"/api/v3/historicalTrades?symbol={symbol}&fromId={one}&limit=1")
                assert trade["id"] == one


def test_duplicated_trades_are_the_same_trade_twice(market):
    with box_of(market, speed=600) as box:
        frames = watched(box, ("duplicate", 6))
    assert sum(one == other for one, other in pairwise(frames)) == 6
    assert not any(missing(frames).values())


def test_reordered_trades_all_come_and_some_too_late(market):
    with box_of(market, speed=600) as box:
        frames = watched(box, ("reorder", 8))
    late = sum(one["T"] > other["T"] for one, other in pairwise(frames))
    assert 1 <= late <= 7
    assert not any(missing(frames).values())
    assert len({(frame["s"], frame["t"]) for frame in frames}) == len(frames)


def test_a_spoilt_frame_is_meant_to_be_a_trade_and_cannot_be_read_as_one(market):
    with box_of(market, speed=600) as box:
        frames = watched(box, ("schema", 4))
    spoilt = [frame for frame in frames if "p" not in frame]
    assert len(spoilt) == 4
    assert all(frame["e"] == "trade" and float(frame["price"]) > 0 for frame in spoilt)
    assert not any(missing(frames).values())


def test_a_burst_is_many_trades_at_once_and_moves_the_clock(market):
    with box_of(market, speed=1) as box:
        began = box.get("/api/v3/time")["serverTime"]
        frames = watched(box, ("burst", 2_000))
        moved = box.get("/api/v3/time")["serverTime"] - began
        assert box.state()["trades_happened"] >= 2_000
    assert moved > 10 * 60_000, "thousands of trades take many minutes of this market"
    assert len(frames) > 2_000
    assert not any(missing(frames).values())


def test_a_mixed_frame_holds_several_symbols(market):
    async def watch(box):
        async with websockets.connect(f"{box.address.stream}/v2") as one:
            await one.send('{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD","ETH/USD"]}}')
            box.fault("mixed", 12)
            frames = []
            while not frames or len({row["symbol"] for row in frames[-1]["data"]}) == 1:
                frame = await heard(one)
                frames += [frame] * (frame.get("channel") == "trade")
            return frames

    with box_of(market, speed=600) as box:
        frames = asyncio.run(watch(box))
    for symbol in ("BTC/USD", "ETH/USD"):
        ids = [row["trade_id"] for frame in frames for row in frame["data"] if row["symbol"] == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert len(frames[-1]["data"]) >= 12


def ended(box, kind, path="/ws/btcusd@trade"):
    """Return how a connection ends after a fault, its code or None without a goodbye, and the last frame before."""

    async def watch():
        async with websockets.connect(box.address.stream + path) as one:
            last = None
            await asyncio.to_thread(box.fault, kind)
            try:
                while True:
                    last = await heard(one)
            except websockets.ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None, last

    return asyncio.run(watch())


@pytest.mark.parametrize(("kind", "code"), [("close", 1012), ("vanish", None)])
def test_a_connection_ends_with_or_without_goodbye_and_another_goes_on(market, kind, code):
    with box_of(market, speed=600) as box:
        assert ended(box, kind)[0] == code
        assert watched(box)
        assert box.state()["faults_injected"] == {kind: 1}


def test_a_shutdown_is_announced(market):
    with box_of(market, speed=1) as box:
        assert ended(box, "shutdown", "/stream?streams=btcusd@trade")[1]["stream"] == "!serverShutdown"
        assert ended(box, "shutdown")[1]["e"] == "serverShutdown"
        code, last = ended(box, "shutdown", "/v2")
        assert (code, last["channel"], last["data"][0]["system"]) == (1012, "status", "maintenance")


async def silent(connection):
    """Return when nothing was heard for half a second."""
    try:
        while True:
            await heard(connection, 0.5)
    except TimeoutError:
        return


def test_a_stalled_connection_is_open_and_silent_and_a_new_one_is_not(market):
    async def watch(box):
        async with websockets.connect(f"{box.address.stream}/ws/btcusd@trade", ping_interval=None) as one:
            await heard(one)
            pong = await one.ping()
            await asyncio.wait_for(pong, 5)
            await asyncio.to_thread(box.fault, "stall")
            await silent(one)
            pong = await one.ping()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pong, 0.5)
            assert one.state is websockets.State.OPEN
            assert box.state()["connections"] == 1
            one.transport.abort()  # it would wait for a goodbye

    with box_of(market, speed=600) as box:
        asyncio.run(watch(box))
        assert watched(box)
        deadline = time.monotonic() + 10
        while box.state()["connections"]:
            assert time.monotonic() < deadline, "who left a stalled connection is forgotten"


def test_the_server_pings_and_ends_what_does_not_answer(market):
    """A client that never reads its socket is half open too."""

    async def watch(box):
        reader, writer = await asyncio.open_connection(*box.address.rest.removeprefix("http://").split(":"))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        frame = await asyncio.wait_for(reader.readexactly(2), 10)
        writer.close()
        return frame

    with box_of(market, speed=600, ping_s=0.1) as box:
        assert asyncio.run(watch(box)) == b"\x89\x04"


@pytest.mark.parametrize(
    ("kind", "status", "code", "wait"), [("429", 429, -1003, "1"), ("418", 418, -1003, "2"), ("503", 503, -1008, None)]
)
def test_binance_refuses_as_it_does_and_then_answers(market, kind, status, code, wait):
    with box_of(market) as box:
        box.fault(kind, 2)
        for _ in range(2):
            got, error, headers = box.refusal("/api/v3/klines?symbol=BTCUSD&interval=1m")
            assert (got, error["code"], headers["Retry-After"]) == (status, code, wait)
        assert box.get("/api/v3/ping") == {}


def test_kraken_refuses_in_its_envelope_or_is_banned_before_it(market):
    with box_of(market) as box:
        box.fault("429")
        assert box.get("/0/public/Time") == {"error": ["EAPI:Rate limit exceeded"]}
        box.fault("503")
        assert box.refusal("/0/public/Time")[:2] == (503, {"error": ["EService:Unavailable"]})
        box.fault("418")
        status, error, headers = box.refusal("/0/public/Time")
        assert (status, error, headers["Retry-After"]) == (429, {"error_code": 1015}, "2")
        assert box.get("/0/public/Time")["error"] == []


def test_chance_is_seeded_and_keeps_to_its_mean():
    def times(seed):
        now, happened = [0.0], []
        faults = Faults(["drop", "close", "429"], 10.0, seed, lambda: now[0])
        while now[0] < 10_000:
            before = faults.injected.copy()
            faults.draw()
            happened += [(now[0], kind) for kind in (faults.injected - before).elements()]
            now[0] += 1.0
        return happened

    assert times(1) == times(1)
    assert times(1) != times(2)
    assert len(times(1)) == pytest.approx(1_000, rel=0.15)
    assert {kind for _, kind in times(1)} == {"drop", "close", "429"}


def test_faults_by_chance_happen_to_the_streams(market):
    with box_of(market, speed=600, faults=Faults(["duplicate"], 0.05, 3)) as box:
        deadline = time.monotonic() + 10
        while box.state()["faults_injected"].get("duplicate", 0) < 5:
            assert time.monotonic() < deadline
        frames = watched(box)
    assert len({(frame["s"], frame["t"]) for frame in frames}) < len(frames), "those that waited for a listener"


def test_an_unknown_fault_is_refused_and_the_kinds_are_told(market):
    with pytest.raises(UsageError, match="'flood' is no fault; choose from drop, duplicate"):
        Faults(["flood"])
    with pytest.raises(UsageError, match="above 0"):
        Faults(["drop"], 0)
    with box_of(market) as box:
        with pytest.raises(HTTPError) as refused:
            box.fault("flood")
        told = refused.value.read().decode()
    assert all(kind in told for kind in KINDS)
