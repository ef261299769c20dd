"""The box is one market with a clock: what it tells, when, and how it goes on after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
import websockets
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY as DAY
from markets.box.clock import MarketClock
from markets.box.listing import listings_of
from markets.box.reel import Reel
from markets.box.server import Box
from markets.box.tape import Tape
from markets.recorded import Recorded
from markets.simulated import Simulated
from markets.source import Resume
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.samples import START, trades, write

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC, ETH], OPENS, 2)


async def read(url, n):
    async with websockets.connect(url, max_queue=None) as connection:
        return [await connection.recv() for _ in range(n)]


@pytest.mark.process
def test_a_stream_at_the_readers_pace_has_every_trade_of_the_source_once_and_in_order(market):
    n, opens = 20_000, OPENS - 3_600 * SECOND  # midnight is crossed
    with box_of(market, speed=0, opens=opens) as box:
        frames = asyncio.run(read(f"{box.address.stream}/stream?streams=btcusd@trade/ethusd@trade", n))
    events = [json.loads(frame)["data"] for frame in frames]
    assert events[-1]["T"] * 1_000_000 > OPENS
    names = {"BTCUSD": BTC, "ETHUSD": ETH}
    assert [
        (names[e["s"]], e["T"] * 1_000_000, e["t"], float(e["p"]), float(e["q"]), -1 if e["m"] else 1) for e in events
    ] == [
        (t.instrument, t.ts_event, t.trade_id, t.price, t.size, t.side)
        for t in market.open({BTC: Resume(opens), ETH: Resume(opens)}, 0).poll(n, 0)
    ]


@pytest.mark.process
def test_a_clock_at_the_readers_pace_stands_until_somebody_reads(market):
    url = "/stream?streams=btcusd@trade"
    with box_of(market, speed=0) as box:
        assert box.state()["now"] == OPENS
        frames = asyncio.run(read(box.address.stream + url, 10))
        read_until = json.loads(frames[-1])["data"]["T"]
        stands = box.state()["now"]
        assert stands >= read_until * 1_000_000
        assert box.state()["now"] == stands
        newest = box.get("/api/v3/trades?symbol=BTCUSD&limit=1")[0]["time"]
        assert newest * 1_000_000 <= stands, "REST has what was sent and no more"


@pytest.mark.process
def test_a_clock_at_the_readers_pace_waits_for_a_reader_who_pauses(market):
    async def pause(box):
        async with websockets.connect(f"{box.address.stream}/ws/btcusd@trade", max_queue=1) as connection:
            stood = [OPENS, box.state()["now"]]
            while stood[-1] != stood[-2] or stood[-1] == OPENS:
                await asyncio.sleep(0.2)
                stood.append(box.state()["now"])
            assert box.state()["connections"] == 1
            ids = [json.loads(await connection.recv())["t"] for _ in range(2_000)]
            connection.transport.abort()  # a goodbye would wait behind all that is still to be read
            return ids

    with box_of(market, speed=0) as box:
        ids = asyncio.run(asyncio.wait_for(pause(box), 30))
    assert ids == list(range(ids[0], ids[0] + len(ids)))


@pytest.mark.process
def test_event_time_runs_at_the_speed_that_was_asked_for(market):
    with box_of(market, speed=3_600) as box:
        began, first = time.monotonic(), box.state()["now"]
        time.sleep(0.5)
        last, ended = box.state()["now"], time.monotonic()
    assert 0.5 * 3_600 * SECOND <= last - first <= (ended - began + 0.2) * 3_600 * SECOND


@pytest.mark.process
def test_a_recorded_market_opens_with_its_first_trade_and_falls_silent_after_its_last(tmp_path):
    source = Recorded([write(tmp_path / "t.parquet", trades(10, step=SECOND))])
    with box_of(source, speed=0) as box:
        frames = asyncio.run(read(f"{box.address.stream}/ws/btcusd@trade", 10))
        assert [json.loads(frame)["t"] for frame in frames] == list(range(1, 11))
        assert box.state()["now"] // 1_000_000 == (START + 9 * SECOND) // 1_000_000
        assert not box.state()["simulated"]


@pytest.mark.process
def test_recorded_frames_come_out_as_they_were_recorded_byte_for_byte(shelf, tmp_path):
    path = shelf("frames_binance_spot_trade.jsonl.zst")
    with path.open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()[:12_000]
    parts = [tmp_path / "one.jsonl", tmp_path / "two.jsonl.zst"]
    parts[0].write_bytes(b"\n".join(lines[:5_000]) + b"\n")
    parts[1].write_bytes(zstandard.compress(b"\n".join(lines[5_000:]) + b"\n"))
    recorded = [line.partition(b" ")[2].decode() for line in lines]
    with box_of(Recorded(parts, "binance"), speed=0, frames=parts) as box:
        url = f"{box.address.stream}/stream?streams=btcusdt@trade/ethusdt@trade"
        combined = asyncio.run(read(url, len(recorded)))
    with box_of(Recorded(parts, "binance"), speed=0, frames=parts) as box:
        raw = asyncio.run(read(f"{box.address.stream}/ws/btcusdt@trade/ethusdt@trade", len(recorded)))
    for symbol in ("btcusdt", "ethusdt"):  # between symbols the exchange keeps no order of event time
        of_symbol = f'{{"stream":"{symbol}@trade","data":'
        mine = [frame for frame in recorded if frame.startswith(of_symbol)]
        assert len(mine) > 1_000
        assert [frame for frame in combined if frame.startswith(of_symbol)] == mine
        assert [of_symbol + event + "}" for event in raw if f'"s":"{symbol.upper()}"' in event] == mine


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 2 * 86_400), max_size=8), after=st.integers(-3_600, 3_600))
def test_a_reel_cut_anywhere_has_every_trade_once(market, cuts, after):
    tape, listings, start = Tape(market), listings_of([BTC, ETH]), OPENS + after * SECOND
    reel, end = Reel(tape, listings, start), start + 2 * DAY // 20
    rows = [row for cut in sorted(cuts) if cut < 8_640 for row in reel.take(start + cut * SECOND)]
    rows += reel.take(end)
    assert all(start < ts <= end for _, ts, *_ in rows)
    assert [ts for _, ts, *_ in rows] == sorted(ts for _, ts, *_ in rows)
    for place, name in enumerate((BTC, ETH)):
        ids = [trade_id for table in market.history(name, start + 1, end + 1) for trade_id in table.trade_id.tolist()]
        assert [row[2] for row in rows if row[0] == place] == ids


def test_a_reel_tells_when_the_next_trades_have_happened_over_midnight_and_days_without_any(market, tmp_path):
    reel = Reel(Tape(market), listings_of([BTC, ETH]), OPENS - 60 * SECOND)
    for n in (1, 10, 1_000, 50_000):
        assert len(reel.take(reel.after(n))) == n  # no two of these trades have one time
    first, later = trades(3), trades(3, start=START + 3 * DAY)
    rows = {name: first[name] + later[name] for name in first}
    rows["trade_id"] = list(range(1, 7))
    source = Recorded([write(tmp_path / "t.parquet", rows)])
    reel, ids = Reel(Tape(source), listings_of(source.instruments), START - 1), []
    while (until := reel.after(2)) is not None:
        ids += [row[2] for row in reel.take(until)]
    assert ids == [1, 2, 3, 4, 5, 6]


def test_a_clock_never_goes_back_over_a_kill_and_loses_a_second_at_most(tmp_path):
    wall, path = [100.0], tmp_path / "clock"
    told = OPENS
    for step in (0.0, 0.3, 0.8, 5.0, 0.1, 1.1):
        clock = MarketClock(OPENS, 60, path, lambda: wall[0])  # what the one before did not note is gone
        assert told <= clock.now() <= told + 60 * SECOND
        for part in (0.4, 0.6):
            wall[0] += part * step
            assert clock.now() >= told
            told = clock.now()
        wall[0] += 1_000.0  # while nobody runs it, the market is closed


def test_a_clock_that_was_stopped_goes_on_where_it_stopped(tmp_path):
    wall, path = [100.0], tmp_path / "clock"
    clock = MarketClock(OPENS, 60, path, lambda: wall[0])
    wall[0] += 7.25
    clock.stop()
    wall[0] += 50.0
    assert MarketClock(OPENS, 60, path, lambda: wall[0]).now() == OPENS + 435 * SECOND
    assert MarketClock(OPENS + DAY, 60, path, lambda: wall[0]).now() == OPENS + DAY, "another opening is another market"


def test_a_clock_that_leaps_goes_on_from_there_and_never_back(tmp_path):
    wall = [100.0]
    clock = MarketClock(OPENS, 60, tmp_path / "clock", lambda: wall[0])
    wall[0] += 10.0
    clock.advance(OPENS + 3_600 * SECOND)
    assert clock.now() == OPENS + 3_600 * SECOND
    wall[0] += 2.0
    clock.advance(OPENS + 60 * SECOND)
    assert clock.now() == OPENS + 3_720 * SECOND
    assert MarketClock(OPENS, 60, tmp_path / "clock", lambda: wall[0]).now() >= OPENS + 3_720 * SECOND


def test_a_file_that_holds_no_clock_is_refused(tmp_path):
    path = tmp_path / "clock"
    path.write_text("noon")
    with pytest.raises(UsageError, match=r"clock: holds no clock of a market; delete it"):
        MarketClock(OPENS, 60, path)


SERVE = """
import sys
from pathlib import Path
from markets.box.clock import MarketClock
from markets.box.server import Box
from markets.simulated import Simulated
opens = {opens}
box = Box(Simulated(7, ["{btc}"], opens, 1), MarketClock(opens, 600, Path(sys.argv[1])))
print(box.url, flush=True)
box.run()
"""


def served(path):
    code = SERVE.format(opens=OPENS, btc=BTC)
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    url = f"http://{process.stdout.readline().strip()}/box"
    with urlopen(url, timeout=20) as answer:
        return process, url, json.load(answer)["now"]


@pytest.mark.process
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_box_that_was_ended_goes_on_where_it_was(tmp_path, end):
    process, url, _ = served(tmp_path / "clock")
    time.sleep(0.3)
    with urlopen(url, timeout=5) as answer:
        told = json.load(answer)["now"]
    process.send_signal(end)
    process.wait(20)
    process.stdout.close()
    noted = json.loads((tmp_path / "clock").read_bytes())["until"]
    assert told <= noted <= told + 2 * 600 * SECOND, "a second, and what passed until the signal came"
    process, url, now = served(tmp_path / "clock")
    process.kill()
    process.wait(20)
    process.stdout.close()
    assert now >= noted


@contextmanager
def deaf(box):
    """Yield while there is a connection that reads nothing after the handshake."""
    host, _, port = box.url.removeprefix("http://").partition(":")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.connect((host, int(port)))
        one.sendall(
            b"GET /ws/btcusd@trade/ethusd@trade HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        assert one.recv(12) == b"HTTP/1.1 101"
        assert box.state()["connections"] == 1
        yield


def until(box, holds):
    """Return the box's state when something holds of it."""
    deadline = time.monotonic() + 20
    while not holds(state := box.state()):
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return state


@pytest.mark.process
def test_a_reader_that_falls_too_far_behind_is_cut_off(market):
    with box_of(market, speed=60) as box, deaf(box):
        for _ in range(3):
            box.fault("burst", 60_000)
            until(box, lambda state: not state["faults_pending"])
        until(box, lambda state: state["connections"] == 0)


@pytest.mark.process
def test_closing_a_reader_that_is_behind_keeps_nobody_waiting(market):
    with box_of(market, speed=60) as box, deaf(box):
        box.fault("burst", 50_000)
        happened = until(box, lambda state: state["trades_sent"] >= 50_000)["trades_happened"]
        assert box.state()["connections"] == 1
        box.fault("close")
        until(box, lambda state: state["connections"] == 0 and state["trades_happened"] > happened)


@pytest.mark.process
def test_a_taken_port_is_one_clear_line(market):
    with box_of(market) as box:
        port = int(box.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"port {port} is taken; give --port a free one"):
            Box(market, MarketClock(OPENS, 60), port)


@pytest.mark.process
def test_a_mistake_in_the_loop_ends_the_box_instead_of_leaving_a_market_that_stands(market):
    box = Box(market, MarketClock(OPENS, 60))
    box._broadcast._reel = None
    with pytest.raises(AttributeError):
        box.run()
