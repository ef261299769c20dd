"""Recorded files: what they hold comes out whole, in order, and from any place on."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.bars import BAR_COLUMNS, CLOSE, MISSING, OPEN, VOLUME, VWAP
from domain.errors import UsageError
from domain.events import NANOS_PER_DAY
from markets.recorded import Recorded
from markets.source import Resume
from tests.markets.samples import MINUTE, START, candles, drained, trades, write

YEAR = "candles_1m_bitfinex_BTCUSD_2019.parquet"
WEEK = "candles_1m_bitfinex_small_201912w1.parquet"
TRADES = "trades_binance_20240809.parquet"
FRAMES = "frames_binance_spot_trade.jsonl.zst"
SPOT = ("recorded:BTC-USDT", "recorded:ETH-USDT")


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def history(source, instrument, start=0, end=2**62):
    tables = list(source.history(instrument, start, end))
    names = [name for name in ("ts", "trade_id", "price", "size", "side", "values") if hasattr(tables[0], name)]
    return {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}


@pytest.mark.slow
def test_a_real_year_of_candles_has_its_known_prices(shelf):
    source = Recorded([shelf(YEAR)])
    assert (source.kind, source.interval, source.instruments) == ("bars", MINUTE, ("recorded:BTC-USD",))
    bars = history(source, "recorded:BTC-USD")
    assert len(bars["ts"]) == 512_727
    assert bars["values"][0, OPEN] == pytest.approx(3_832.6, abs=0.1)
    assert bars["values"][-1, CLOSE] == pytest.approx(7_200, abs=20)
    assert bars["ts"][0] == ns("2019-01-01 00:01:00")  # the END of the first minute
    assert source.span("recorded:BTC-USD") == (ns("2019-01-01 00:01:00"), ns("2020-01-01 00:00:00"))


def test_history_tables_keep_to_one_utc_day_and_a_midnight_bar_ends_its_day(shelf):
    source = Recorded([shelf(WEEK)])
    tables = list(source.history("recorded:BTC-USD", 0, 2**62))
    assert [len({int(ts) for ts in (table.ts - 1) // NANOS_PER_DAY}) for table in tables] == [1] * 7
    midnight = ns("2019-12-02 00:00:00")
    assert tables[0].ts[-1] == midnight
    day = history(source, "recorded:BTC-USD", midnight, midnight + NANOS_PER_DAY)
    assert day["ts"][0] > midnight
    assert day["ts"][-1] == midnight + NANOS_PER_DAY


def test_trade_windows_include_their_start_and_exclude_their_end(shelf):
    source = Recorded([shelf(TRADES)])
    midnight = ns("2024-08-09 00:00:00")
    before = history(source, SPOT[0], 0, midnight)
    after = history(source, SPOT[0], midnight)
    assert before["ts"][-1] < midnight <= after["ts"][0]
    assert len(before["ts"]) + len(after["ts"]) == 19_904
    at = int(after["ts"][0])
    assert history(source, SPOT[0], at, at + 1)["ts"].tolist() == [at] * int((after["ts"] == at).sum())


def test_real_trades_have_their_known_prices_and_contiguous_ids(shelf):
    source = Recorded([shelf(TRADES)])
    spot = history(source, SPOT[0])
    assert spot["price"].min() >= 61_556
    assert spot["price"].max() <= 61_861
    for instrument in source.instruments:
        assert (np.diff(history(source, instrument)["trade_id"]) == 1).all()
    assert not [finding for finding in source.findings if finding.severity != "note"]


@pytest.mark.slow
def test_the_frames_say_what_the_trade_file_says(shelf):
    """Side, times and normalised symbols included: both record the same trades of the same minutes."""
    frames = Recorded([shelf(FRAMES)], instruments=SPOT)
    table = Recorded([shelf(TRADES)], instruments=SPOT)
    events = drained(frames.open({}, 0))
    assert len(events) == 34_419
    for instrument in SPOT:
        theirs, ours = history(table, instrument), history(frames, instrument)
        for name, column in theirs.items():
            assert np.array_equal(ours[name], column), (instrument, name)
    assert events == drained(table.open({}, 0))


def test_the_feed_gives_the_history_of_all_instruments_in_event_time_order(shelf):
    source = Recorded([shelf(TRADES)])
    events = drained(source.open({}, 0))
    place = {instrument: k for k, instrument in enumerate(source.instruments)}
    keys = [(event.ts_event, place[event.instrument], event.trade_id) for event in events]
    assert keys == sorted(keys)
    for instrument in source.instruments:
        theirs = history(source, instrument)
        mine = [event for event in events if event.instrument == instrument]
        assert [event.price for event in mine] == theirs["price"].tolist()
        assert [event.side for event in mine] == theirs["side"].tolist()


@pytest.mark.slow
def test_candles_of_two_files_are_merged_in_order(shelf):
    names = ("candles_1m_bitfinex_BTCUSD_2019.parquet", "candles_1m_bitfinex_ETHUSD_2019.parquet")
    source = Recorded([shelf(name) for name in names])
    feed, last, count = source.open({}, 0), 0, 0
    while not feed.done:
        times = np.array([event.ts_event for event in feed.poll(20_000, 0)])
        assert times[0] >= last
        assert (np.diff(times) >= 0).all()
        last, count = times[-1], count + len(times)
    assert count == 512_727 + 455_968


def test_symbols_that_carry_a_venue_keep_it_and_sparse_seconds_are_told(shelf):
    source = Recorded([shelf("candles_1s_lean_coinbase_btcusd_201610_apache2.parquet")])
    assert source.instruments == ("coinbase:BTCUSD",)
    assert source.interval == 1_000_000_000


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(0, 34_418), portion=st.integers(1, 40_000))
def test_a_resumed_feed_gives_exactly_the_rest(shelf, stop, portion):
    source = Recorded([shelf(TRADES)], instruments=SPOT)
    everything = drained(source.open({}, 0), 100_000)
    resume = {event.instrument: Resume(event.ts_event, event.trade_id) for event in everything[: stop + 1]}
    assert drained(source.open(resume, 0), portion) == everything[stop + 1 :]


def test_without_a_trade_id_only_later_times_are_newer(tmp_path):
    columns = trades(6, step=0) | {"ts": [START, START, START + 1, START + 1, START + 2, START + 2]}
    source = Recorded([write(tmp_path / "t.parquet", columns)])
    rest = drained(source.open({"recorded:BTC-USD": Resume(START + 1)}, 0))
    assert [event.trade_id for event in rest] == [5, 6]
    rest = drained(source.open({"recorded:BTC-USD": Resume(START + 1, 3)}, 0))
    assert [event.trade_id for event in rest] == [4, 5, 6]


def test_candles_resume_after_the_end_of_the_last_one(tmp_path):
    source = Recorded([write(tmp_path / "c.parquet", candles(5))])
    rest = drained(source.open({"recorded:BTC-USD": Resume(START + 2 * MINUTE)}, 0))
    assert [event.ts_event for event in rest] == [START + k * MINUTE for k in (3, 4, 5)]


def test_a_candle_becomes_a_bar_that_tells_what_the_file_tells_and_no_more(tmp_path):
    columns = candles(2) | {"open": [100.0, 5.0], "high": [106.0, 5.0], "low": [99.0, 5.0], "close": [101.0, 5.0]}
    source = Recorded([write(tmp_path / "c.csv", columns | {"volume": [1.5, 0.0]})])
    first, empty = drained(source.open({}, 0))
    assert (first.ts_event, first.open, first.high, first.low, first.close) == (START + MINUTE, 100, 106, 99, 101)
    assert (first.volume, first.buy_volume, first.vwap, first.trades, first.missing) == (1.5, 0, 101, 0, 0)
    assert (empty.volume, empty.missing) == (0, 1)
    values = history(source, "recorded:BTC-USD")["values"]
    assert values.shape == (2, len(BAR_COLUMNS))
    assert values[:, [VOLUME, VWAP, MISSING]].tolist() == [[1.5, 101, 0], [0, 5, 1]]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "timestamp"])
def test_every_unit_of_time_is_understood_and_said(tmp_path, unit, suffix):
    size = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}.get(unit)
    columns = candles(3)
    opens = columns["ts"]
    columns["ts"] = [ts // size for ts in opens] if size else [datetime.fromtimestamp(ts // 10**9, UTC) for ts in opens]
    source = Recorded([write(tmp_path / f"c.{suffix}", columns)])
    assert history(source, "recorded:BTC-USD")["ts"].tolist() == [ts + MINUTE for ts in opens]
    said = [str(finding) for finding in source.findings if finding.code == "unit"]
    assert [f"is read as {unit}" in line for line in said] == ([True] if size else [])


def test_times_without_a_zone_are_read_as_utc_and_said(tmp_path):
    path = tmp_path / "c.csv"
    rows = "".join(f"BTC/USD,2024-01-01 00:0{k}:00,5,6,4,5,1\n" for k in range(3))
    path.write_text("symbol,ts,open,high,low,close,volume\n" + rows)
    source = Recorded([path])
    assert source.instruments == ("recorded:BTC-USD",)
    assert source.span("recorded:BTC-USD")[0] == ns("2024-01-01 00:01:00")
    assert "zone" in {finding.code for finding in source.findings}


def test_one_instrument_may_go_on_in_the_next_file_and_several_share_one(tmp_path):
    both = {name: [*cells, *trades(4, "ETH-USD")[name]] for name, cells in trades(5).items()}
    later = trades(3, first_id=6, start=START + MINUTE * 5)
    paths = [write(tmp_path / "b.parquet", later), write(tmp_path / "a.parquet", both)]
    source = Recorded(paths)
    events = drained(source.open({}, 0), 2)
    assert [event.trade_id for event in events if event.instrument == "recorded:BTC-USD"] == list(range(1, 9))
    assert [event.trade_id for event in events if event.instrument == "recorded:ETH-USD"] == [1, 2, 3, 4]
    assert [event.ts_event for event in events] == sorted(event.ts_event for event in events)


@pytest.mark.slow
def test_small_row_groups_and_blocks_of_text_change_nothing(tmp_path, monkeypatch):
    """Rows of two instruments alternate, so every piece holds both."""
    first, second = trades(500, step=1_000), trades(500, "ETH-USD", step=1_000)
    mixed = {name: [cell for pair in zip(first[name], second[name], strict=True) for cell in pair] for name in first}
    whole = drained(Recorded([write(tmp_path / "whole.parquet", mixed)]).open({}, 0))
    assert len(whole) == 1_000
    pieces = Recorded([write(tmp_path / "pieces.parquet", mixed, row_group_size=7)])
    assert drained(pieces.open({}, 0), 13) == whole
    for k in range(40):
        edge = START + k * 1_000
        assert history(pieces, "recorded:ETH-USD", edge, edge + 1)["trade_id"].tolist() == [k + 1]
    monkeypatch.setattr("markets.tabular.BLOCK", 300)
    text = Recorded([write(tmp_path / "pieces.csv", mixed)])
    assert drained(text.open({}, 0), 13) == whole
    assert history(text, "recorded:ETH-USD", START + 9_000, START + 12_000)["trade_id"].tolist() == [10, 11, 12]


def test_equal_times_come_in_the_order_of_the_instruments_even_across_pieces(tmp_path):
    """As many trades of one moment as two sweeps of the book make, in more pieces than one."""
    columns = [trades(30, name, step=0) for name in ("ETH-USD", "BTC-USD")]
    paths = [write(tmp_path / f"{k}.parquet", part, row_group_size=7) for k, part in enumerate(columns)]
    for portion in (1, 4, 1_000):
        events = drained(Recorded(paths).open({}, 0), portion)
        assert [event.instrument for event in events] == ["recorded:ETH-USD"] * 30 + ["recorded:BTC-USD"] * 30
        assert [event.trade_id for event in events] == [*range(1, 31)] * 2


def test_frames_in_many_pieces_plain_or_zstd_change_nothing(shelf, tmp_path, monkeypatch):
    packed = shelf(FRAMES)
    with zstandard.open(packed, "rb") as file:
        lines = file.read().splitlines(keepends=True)[:3_000]
    plain = tmp_path / "f.jsonl"
    plain.write_bytes(b"".join(lines))
    frames = tmp_path / "f.jsonl.zst"  # two zstd frames in a row: a recorder that was restarted
    compress = zstandard.ZstdCompressor().compress
    frames.write_bytes(compress(b"".join(lines[:1_000])) + compress(b"".join(lines[1_000:])))
    whole = drained(Recorded([plain]).open({}, 0))
    assert len(whole) == 3_000
    monkeypatch.setattr("markets.frames.BLOCK", 5_000)
    for path in (plain, frames):
        source = Recorded([path])
        assert drained(source.open({}, 0), 77) == whole
        late = whole[2_500].ts_event
        assert history(source, SPOT[0], late)["ts"][0] >= late


def test_frames_that_are_no_market_trade_are_left_out_and_counted(tmp_path):
    trade = '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":%d,"p":"5.0","q":"1.0","T":%d,"m":true%s}}'
    ms = START // 1_000_000
    lines = [
        '1 {"result":null,"id":1}',
        "2 " + trade % (1, ms, ""),
        '3 {"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker"}]}',
        "4 " + trade % (2, ms, ',"X":"INSURANCE_FUND"'),
        '5 {"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1,"s":"BTCUSDT","t":"x","k":{}}}',
        "6 " + trade % (3, ms + 1, ',"X":"MARKET"'),
    ]
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(lines))
    source = Recorded([path])
    events = drained(source.open({}, 0))
    assert [(event.trade_id, event.side, event.ts_event) for event in events] == [
        (1, -1, START),
        (3, -1, START + 10**6),
    ]
    assert ["4 lines" in str(finding) for finding in source.findings if finding.code == "frames"] == [True]


def test_only_the_wanted_instruments_are_served_in_the_wanted_order(shelf):
    wanted = ("recorded:ETH-USDT", "recorded:BTC-USDT")
    source = Recorded([shelf(TRADES)], instruments=wanted)
    assert source.instruments == wanted
    assert {event.instrument for event in drained(source.open({}, 0))} == set(wanted)


def test_an_instrument_that_no_file_has_is_a_usage_error_that_lists_what_there_is(tmp_path):
    path = write(tmp_path / "t.parquet", trades())
    with pytest.raises(UsageError, match=r"t\.parquet: has no instrument x:Y; set instruments from recorded:BTC-USD$"):
        Recorded([path], instruments=["x:Y"])


@pytest.mark.slow
def test_a_long_file_is_read_in_bounded_memory(tmp_path):
    """What a feed holds does not grow with the file: only with its row groups."""
    n = 100_000
    columns = {
        "symbol": np.repeat(["BTC-USD"], n),
        "ts": START + np.arange(n) * 10**6,
        "price": np.full(n, 5.0),
        "size": np.full(n, 1.0),
        "side": np.repeat(["buy"], n),
        "trade_id": np.arange(n),
    }
    path = write(tmp_path / "long.parquet", columns, row_group_size=2_500)
    feed = Recorded([path]).open({}, 0)
    tracemalloc.start()
    count = 0
    while not feed.done:
        count += len(feed.poll(500, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == n
    assert peak < 1_000_000  # the arrays of the whole file would be 4 MB


def test_a_closed_feed_is_done(tmp_path):
    feed = Recorded([write(tmp_path / "t.parquet", trades())]).open({}, 0)
    assert len(feed.poll(2, 0)) == 2
    feed.close()
    assert feed.done
    assert feed.poll(2, 0) == []
