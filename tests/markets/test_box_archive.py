"""The box as Binance's archives: the days that have ended, and the same numbers as its requests answer."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY as DAY
from markets.archives import Archives, date_of
from markets.binance import INTERVALS, Binance
from markets.downloads import Downloads
from markets.recorded import Recorded
from markets.rest import RestClient
from markets.simulated import Simulated
from tests.markets.box import BTC, box_of
from tests.markets.samples import MINUTE, START, trades, write

pytestmark = pytest.mark.process

OPENS = 20_090 * DAY  # 2025-01-02: of the two days of history, one is in milliseconds and one in microseconds
DAYS = [(OPENS - 2 * DAY, 1_000_000), (OPENS - DAY, 1_000)]


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC], OPENS, 2)


@pytest.fixture(scope="module")
def box(market):
    with box_of(market, speed=0, opens=OPENS) as box:
        yield box


def klines(day, name="1m", symbol="BTCUSD"):
    return f"/data/spot/daily/klines/{symbol}/{name}/{symbol}-{name}-{date_of(day)}.zip"


def traded(day, symbol="BTCUSD"):
    return f"/data/spot/daily/trades/{symbol}/{symbol}-trades-{date_of(day)}.zip"


def asked(box, path, **headers):
    """Return status, body and headers of an answer."""
    try:
        with urlopen(Request(box.url + path, headers=headers), timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def lines_of(box, path):
    """Return the cells of a file's lines."""
    status, body, _ = asked(box, path)
    assert status == 200, path
    with zipfile.ZipFile(io.BytesIO(body)) as packed:
        [name] = packed.namelist()
        assert name == path.rpartition("/")[2].replace(".zip", ".csv")
        return [line.split(",") for line in packed.read(name).decode().splitlines()]


def requested(box, path, unit):
    """Return what a request answers, its times in a unit of ns."""
    named = {1_000: "MICROSECOND", 1_000_000: "MILLISECOND"}[unit]
    return json.loads(asked(box, path, **{"X-MBX-TIME-UNIT": named})[1])


def candles_of(box, cache, day, told=None):
    """Return a day's candles as the archives' own reader has them."""

    async def run():
        tell = (told if told is not None else []).append
        async with Downloads(cache, box.url, tell=tell) as downloads:
            return await Archives(downloads).candles("BTCUSD", "1m", MINUTE, day)

    return asyncio.run(run())


@pytest.mark.parametrize(("day", "unit"), DAYS)
def test_a_file_of_candles_is_written_as_the_requests_answer_them(box, day, unit):
    for name, limit in (("1m", 1_000), ("1h", 24), ("1d", 1)):
        lines = lines_of(box, klines(day, name))
        page = requested(
            box, f"/api/v3/klines?symbol=BTCUSD&interval={name}&startTime={day // 1_000_000}&limit={limit}", unit
        )
        assert lines[:limit] == [[str(cell) for cell in row] for row in page]
        assert int(lines[0][0]) == day // unit
        assert int(lines[-1][6]) == (day + DAY) // unit - 1


@pytest.mark.parametrize(("day", "unit"), DAYS)
def test_a_file_of_trades_is_written_as_the_requests_answer_them(box, market, day, unit):
    lines = lines_of(box, traded(day))
    [table] = market.history(BTC, day, day + DAY)
    assert [int(line[0]) for line in lines] == table.trade_id.tolist()
    for start in (0, len(lines) - 1_000):
        query = f"symbol=BTCUSD&fromId={lines[start][0]}&limit=1000"
        page = requested(box, f"/api/v3/historicalTrades?{query}", unit)
        assert lines[start : start + 1_000] == [[str(cell) for cell in row.values()] for row in page]
        assert set(page[0]) == {"id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"}
    assert {line[5] for line in lines} == {"True", "False"}


@pytest.mark.parametrize(("day", "unit"), DAYS)
def test_the_reader_of_archives_gets_the_candles_of_requests_to_the_bit(box, tmp_path, day, unit):
    async def pages():
        async with RestClient(box.url, 6_000) as rest:
            return [page async for page in Binance("simulated").candles(rest, BTC, MINUTE, day, day + DAY - MINUTE)]

    archived, tables = candles_of(box, tmp_path, day), asyncio.run(pages())
    values = np.concatenate([table.values for table in tables])
    assert len(archived) == 1_440
    assert archived.ts[:-1].tolist() == np.concatenate([table.ts for table in tables]).tolist()
    assert archived.values[:-1].tobytes() == values.tobytes()


def test_the_reader_of_archives_gets_the_trades_of_the_market(box, market, tmp_path):
    async def run():
        async with Downloads(tmp_path, box.url) as downloads:
            return [table async for table in Archives(downloads).trades("BTCUSD", OPENS - DAY)]

    tables, [wanted] = asyncio.run(run()), market.history(BTC, OPENS - DAY, OPENS)
    for name, column in vars(wanted).items():
        assert np.concatenate([getattr(table, name) for table in tables]).tolist() == column.tolist()


def test_a_digest_is_of_the_file_whatever_was_asked_for_in_between(box, market):
    paths = [klines(OPENS - DAY), klines(OPENS - 2 * DAY), traded(OPENS - DAY)]
    digests = [asked(box, f"{path}.CHECKSUM")[1].decode() for path in paths]
    with box_of(market, speed=0, opens=OPENS + DAY) as other:
        for path, digest in zip(paths, digests, strict=True):
            for one in (box, other):
                body = asked(one, path)[1]
                assert digest == f"{hashlib.sha256(body).hexdigest()}  {path.rpartition('/')[2]}\n"


def test_a_range_of_a_file_is_answered_and_a_download_resumed(box, tmp_path):
    path = klines(OPENS - DAY)
    status, body, headers = asked(box, path)
    assert (status, headers["Accept-Ranges"]) == (200, "bytes")
    for wanted, start, end in (("100-", 100, len(body) - 1), ("0-9", 0, 9), ("5-99999999", 5, len(body) - 1)):
        status, part, headers = asked(box, path, Range=f"bytes={wanted}")
        assert (status, part) == (206, body[start : end + 1])
        assert headers["Content-Range"] == f"bytes {start}-{end}/{len(body)}"
    assert asked(box, path, Range=f"bytes={len(body)}-")[0] == 416
    assert asked(box, path, Range="bytes=9-3")[:2] == (200, body), "a range that is none"
    file = tmp_path / f"{path.lstrip('/')}.part"
    file.parent.mkdir(parents=True)
    file.write_bytes(body[:1_000])
    told = []
    assert len(candles_of(box, tmp_path, OPENS - DAY, told)) == 1_440
    assert told == []


@pytest.mark.parametrize(
    "path",
    [
        klines(OPENS), traded(OPENS),  # today
        klines(OPENS + DAY), klines(OPENS - 3 * DAY), traded(OPENS - 3 * DAY),
        klines(OPENS - DAY, "1w"), klines(OPENS - DAY, "7m"), klines(OPENS - DAY, "trades"),
        klines(OPENS - DAY, symbol="NOPE"),
        klines(OPENS - DAY).replace("BTCUSD-1m", "BTCUSD-1h"),
        traded(OPENS - DAY).replace("BTCUSD-trades", "ETHUSD-trades"),
        klines(OPENS - DAY).replace("2025-01-01", "2025-02-30"),
        klines(OPENS - DAY).replace("2025-01-01", "20250101"),
        klines(OPENS - DAY).replace(".zip", ".csv"),
    ],
)  # fmt: skip
def test_a_file_that_the_archives_do_not_have_is_404_and_so_is_its_digest(box, path):
    for asked_for in (path, f"{path}.CHECKSUM"):
        status, body, _ = asked(box, asked_for)
        assert status == 404
        assert b"<Code>NoSuchKey</Code>" in body


@pytest.mark.parametrize(("until", "status"), [(-1, 404), (0, 200)])
def test_a_day_appears_when_it_has_ended(market, until, status):
    with box_of(market, speed=0, opens=OPENS + until) as box:
        assert [asked(box, path(OPENS - DAY))[0] for path in (klines, traded)] == [status, status]


def test_a_day_without_a_trade_has_flat_candles_and_after_the_last_trade_there_are_no_files(tmp_path):
    def daily(day):
        return klines(day, "1d")

    rows = trades(3, step=2 * DAY)  # on the first, third and fifth day
    with box_of(Recorded([write(tmp_path / "t.parquet", rows)]), speed=0, opens=START + 8 * DAY) as box:
        found = [[asked(box, path(START + k * DAY))[0] for path in (daily, traded)] for k in range(-1, 7)]
        assert found == [[404, 404], [200, 200], [200, 404], [200, 200], [200, 404], [200, 200], [404, 404], [404, 404]]
        flat = lines_of(box, daily(START + DAY))
    assert flat[0][1:6] == ["100.00000000"] * 4 + ["0.00000000"]


def test_every_length_of_candle_that_divides_a_day_has_files(box):
    lengths = {name: interval for interval, name in INTERVALS.items() if name != "1s"}  # those are 86,400 lines
    assert {name: len(lines_of(box, klines(OPENS - DAY, name))) for name in lengths} == {
        name: DAY // interval for name, interval in lengths.items()
    }


def test_a_spoilt_file_is_downloaded_again_and_its_candles_are_right(box, tmp_path):
    right = candles_of(box, tmp_path / "right", OPENS - DAY)
    told = []
    box.fault("checksum")
    got = candles_of(box, tmp_path / "spoilt", OPENS - DAY, told)
    assert got.values.tobytes() == right.values.tobytes()
    assert [line.partition(" has the SHA-256 ")[0] for line in told] == [box.url + klines(OPENS - DAY)]
    assert box.state()["faults_pending"] == {}


def test_a_file_that_is_spoilt_twice_is_refused_in_one_line_and_right_another_time(box, tmp_path):
    box.fault("checksum", 2)
    with pytest.raises(Unavailable, match=r"has the SHA-256 .* and had it 2 times; try again later") as refused:
        candles_of(box, tmp_path, OPENS - DAY)
    assert "\n" not in str(refused.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(candles_of(box, tmp_path, OPENS - DAY)) == 1_440
