"""Daily archives of a real server, alone and joined to requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRecord, Unavailable
from domain.events import BUY, NANOS_PER_DAY, SELL
from markets.archives import ArchivedBinance, Archives, date_of
from markets.downloads import Downloads
from markets.rest import RestClient
from tests.markets.samples import MINUTE, START
from tests.markets.servers import Slept
from tests.markets.vault import HOUR, Archive, day_of_candles, kline, zipped

pytestmark = pytest.mark.process

BTC = "binance:BTC-USDT"
DAY = NANOS_PER_DAY
LATE = 20_100 * DAY  # 2025-01-12: in microseconds


def day_candles(server, tmp_path, day, name="1h", interval=HOUR):
    async def run():
        async with Downloads(tmp_path, server.url, Slept().timing) as downloads:
            return await Archives(downloads).candles("BTCUSDT", name, interval, day)

    return asyncio.run(run())


def day_trades(server, tmp_path, day):
    async def run():
        async with Downloads(tmp_path, server.url, Slept().timing) as downloads:
            return [table async for table in Archives(downloads).trades("BTCUSDT", day)]

    return asyncio.run(run())


def test_a_missing_day_is_nothing(server, archive, tmp_path):
    assert day_candles(server, tmp_path, START) is None
    assert day_trades(server, tmp_path, START) == []
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(("day", "unit"), [(START, 1_000_000), (LATE, 1_000)])
@pytest.mark.parametrize(
    "header", ["", "open_time,open,high,low,close,volume,close_time,quote,count,buy,buy_quote,ignore\n"]
)
def test_a_day_of_candles_is_bars_in_either_unit(server, archive, tmp_path, day, unit, header):
    text = header + "".join(",".join(kline(day + k * HOUR, unit)) + "\n" for k in range(24))
    archive.candles(day, zipped(text))
    table = day_candles(server, tmp_path, day)
    assert table.ts.tolist() == [day + (k + 1) * HOUR for k in range(24)]
    assert table.values.tolist() == [[10.0, 12.0, 9.0, 11.0, 3.0, 1.2, 1.8, 11.0, 7.0, 0.0]] * 24


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (",".join(kline(START + DAY, 1_000_000)), "outside 2023-11-14"),
        (",".join(kline(START, 1_000_000_000)), "outside 2023-11-14"),
        ("\n".join(",".join(kline(START + k * HOUR, 1_000_000)) for k in (1, 0)), "out of order"),
        ("\n".join(",".join(kline(START, 1_000_000)) for k in (1, 0)), "out of order"),
        (",".join(kline(START, 1_000_000)[:5]), "no candle"),
        ("\n1\n", "no candle"),
        ("\xff1\n", "no candle"),
        ("", "no candle"),
        (",".join(kline(START, 1_000_000)).replace("12.0", "x"), "cannot be read"),
    ],
)
def test_a_file_of_something_else_is_refused(server, archive, tmp_path, text, words):
    archive.candles(START, zipped(text))
    with pytest.raises(BadRecord, match=words):
        day_candles(server, tmp_path, START)


def test_a_file_that_cannot_be_unpacked_is_removed(server, archive, tmp_path):
    good = day_of_candles(START)
    path = archive.candles(START, good)
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    for spoiled in (good[:50], good[:60] + b"\xff" * 40 + good[100:], b"<html>"):
        file.write_bytes(spoiled)
        with pytest.raises(Unavailable, match=r"cannot be unpacked .* is removed"):
            day_candles(server, tmp_path, START)
        assert not file.exists()
    assert len(day_candles(server, tmp_path, START)) == 24


def line(trade_id, price, size, time, maker) -> str:
    return f"{trade_id},{price},{size},1.0,{time},{maker},True\n"


@pytest.mark.parametrize(("day", "unit"), [(START, 1_000_000), (LATE, 1_000)])
def test_a_day_of_trades_comes_in_order_and_in_pieces(server, archive, tmp_path, day, unit, monkeypatch):
    monkeypatch.setattr("markets.archives._BLOCK", 4_096)
    text = "".join(
        line(k, f"{k}.25", "0.00012000", (day + k * 60_000_000) // unit, k % 2 == 0) for k in range(1, 1_001)
    )
    archive.trades(day, zipped(text))
    tables = day_trades(server, tmp_path, day)
    assert len(tables) > 5
    assert np.concatenate([table.trade_id for table in tables]).tolist() == list(range(1, 1_001))
    assert np.concatenate([table.ts for table in tables]).tolist() == [day + k * 60_000_000 for k in range(1, 1_001)]
    assert np.concatenate([table.side for table in tables]).tolist() == [
        SELL if k % 2 == 0 else BUY for k in range(1, 1_001)
    ]
    assert tables[0].price[0] == 1.25
    assert tables[0].size[0] == 0.00012


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line(1, "5.0", "1.0", (START + DAY) // 1_000_000, True), "outside 2023-11-14"),
        (
            line(2, "5.0", "1.0", START // 1_000_000, True) + line(2, "5.0", "1.0", START // 1_000_000, True),
            "out of order",
        ),
        (line(1, "five", "1.0", START // 1_000_000, True), "no trade"),
        (line(1, "5.0", "1.0", START // 1_000_000, "maybe"), "no trade"),
        ("1,2\n", "no trade"),
        ("", "no trade"),
    ],
)
def test_trades_of_something_else_are_refused(server, archive, tmp_path, text, words):
    archive.trades(START, zipped(text))
    with pytest.raises(BadRecord, match=words):
        day_trades(server, tmp_path, START)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_trades_out_of_order_between_pieces_are_refused(server, archive, tmp_path, monkeypatch, first):
    """Two or three lines a piece, cut elsewhere each time."""
    monkeypatch.setattr("markets.archives._BLOCK", 100)
    ids = [*range(first, 9), *range(8, 15)]
    archive.trades(START, zipped("".join(line(k, "5.0", "1.0", START // 1_000_000, True) for k in ids)))
    with pytest.raises(BadRecord, match="out of order"):
        day_trades(server, tmp_path, START)


@settings(max_examples=15, deadline=None)
@given(units=st.lists(st.tuples(st.integers(1, 10**14), st.integers(1, 10**15)), min_size=1, max_size=100))
def test_archived_decimals_become_the_nearest_doubles(server, tmp_path_factory, units):
    """The same as those of the stream: a day that was archived repeats the day that was seen."""
    server.answer = Archive()
    texts = [tuple(f"{n // 10**8}.{n % 10**8:08d}" for n in pair) for pair in units]
    lines = [line(k, price, size, START // 1_000_000, True) for k, (price, size) in enumerate(texts)]
    server.answer.trades(START, zipped("".join(lines)))
    [table] = day_trades(server, tmp_path_factory.mktemp("cache"), START)
    assert table.price.tolist() == [float(price) for price, _ in texts]
    assert table.size.tolist() == [float(size) for _, size in texts]


def over_both(server, tmp_path, start, end, told):
    async def run():
        venue = ArchivedBinance(lambda: Downloads(tmp_path, server.url, Slept().timing), told.append)
        async with RestClient(server.url, 6_000, timing=Slept().timing) as rest:
            return [page async for page in venue.candles(rest, BTC, HOUR, start, end)]

    return asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(-40 * 24 * 60, 60), length=st.integers(1, 40 * 24 * 60), now=st.integers(-60, 60),
    absent=st.sets(st.integers(0, 40), max_size=30),
)  # fmt: skip
def test_archives_and_requests_join_without_gap_or_overlap(server, tmp_path_factory, start, length, now, absent):
    """Whatever days the archives lack, wherever the window lies."""
    archive = server.answer = Archive(now=START + now * MINUTE)
    server.asked.clear()
    for number in range(40):
        if number not in absent:
            archive.candles(START - (number + 1) * DAY, day_of_candles(START - (number + 1) * DAY))
    first, last = START + start * MINUTE, START + (start + length) * MINUTE
    pages = over_both(server, tmp_path_factory.mktemp("cache"), first, last, [])
    settled = archive.now - 2_000_000_000
    assert [ts for page in pages for ts in page.ts] == [
        ts for ts in range(START - 50 * DAY, START + 60 * DAY, HOUR) if first < ts <= min(last, settled)
    ]
    recent = {date_of(START - k * DAY) for k in range(29)}
    assert not [path for path in server.paths if any(date in path for date in recent)]


def test_old_days_come_from_the_archives_and_missing_ones_are_told(server, archive, tmp_path):
    for number in (35, 34, 33, 38):
        archive.candles(START - number * DAY, day_of_candles(START - number * DAY))
    told = []
    over_both(server, tmp_path, START - 40 * DAY + HOUR, START - 20 * DAY, told)
    assert told == [
        f"{BTC}: the archives have no candles of 2023-10-06; they are asked for by request",
        f"{BTC}: the archives have no candles of 2023-10-08 to 2023-10-09; they are asked for by request",
        f"{BTC}: the archives have no candles of 2023-10-13 to 2023-10-14; they are asked for by request",
    ]
    asked = [int(request.params["startTime"]) for request in server.asked if request.path.endswith("klines")]
    assert [(START // 1_000_000 - ms) // 86_400_000 for ms in asked] == [39, 37, 32]
