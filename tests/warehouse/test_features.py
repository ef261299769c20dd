import threading

import numpy as np
import pyarrow as pa
import pytest

from domain.errors import BadState
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.features import FEATURES, VectorRecord
from warehouse import features, landing, tables
from warehouse.lake import Lake

ALL_TIME = (0, 2**62)


@pytest.fixture
def lake(empty_lake):
    return empty_lake


@pytest.fixture
def places(shared_places):
    return shared_places


def put(lake, past, *, start=None, run="run"):
    begin = past.start if start is None else start
    rows = tables.vectors_to_rows(past.instrument, past.vectors, "backfill")
    return features.replace_window(lake, "features", past.instrument, begin, past.end, rows, run)


def same(one, other):
    return all(np.array_equal(getattr(one, f), getattr(other, f), equal_nan=True) for f in one.__dataclass_fields__)


def test_a_window_comes_back_bit_for_bit_over_several_days(lake, history):
    past = history(3_000)
    assert put(lake, past).rows == 3_000
    assert same(features.read_table(lake, "features", past.instrument, *ALL_TIME), past.vectors)


def test_every_table_comes_back_as_the_domain_knows_it(lake, history):
    past = history(100)
    rows = {
        "bars": tables.bars_to_rows(past.instrument, past.bars, "backfill"),
        "features": tables.vectors_to_rows(past.instrument, past.vectors, "backfill"),
        "examples": tables.examples_to_rows(past.instrument, past.examples, 300, "backfill"),
    }
    for table, these in rows.items():
        features.replace_window(lake, table, past.instrument, *ALL_TIME, these, "run")
    assert same(features.read_table(lake, "bars", past.instrument, *ALL_TIME), past.bars)
    assert same(features.read_table(lake, "features", past.instrument, *ALL_TIME), past.vectors)
    assert same(features.read_table(lake, "examples", past.instrument, *ALL_TIME), past.examples)


def test_replacing_the_same_window_again_changes_nothing_but_the_snapshot(lake, history):
    past = history(2_000)
    first, again = put(lake, past), put(lake, past)
    assert (again.rows, again.previous_rows) == (2_000, 2_000)
    assert again.snapshot == first.snapshot + 1 == lake.snapshot()
    assert same(features.read_table(lake, "features", past.instrument, *ALL_TIME), past.vectors)


def test_a_window_excludes_its_start_and_includes_its_end(lake, history):
    past = history(10)
    put(lake, past)
    start, end = int(past.ts[2]), int(past.ts[5])
    assert features.count(lake, "features", past.instrument, start, end) == 3
    read = features.read_table(lake, "features", past.instrument, start, end)
    assert read.ts.tolist() == past.ts[3:6].tolist()


def test_replacing_leaves_what_lies_outside_the_window_and_other_instruments(lake, history):
    past, other = history(1_500), history(1_500, seed=1)
    other.instrument = "simulated:ETH-USD"
    put(lake, past)
    put(lake, other)
    cut, end = int(past.ts[999]), int(past.ts[1_199])
    empty = tables.SCHEMAS["features"].empty_table()
    gone = features.replace_window(lake, "features", past.instrument, cut, end, empty, "run")
    assert (gone.rows, gone.previous_rows) == (0, 200)
    left = features.read_table(lake, "features", past.instrument, *ALL_TIME)
    assert left.ts.tolist() == [*past.ts[:1_000], *past.ts[1_200:]]
    assert same(features.read_table(lake, "features", other.instrument, *ALL_TIME), other.vectors)


def test_live_rows_in_the_window_are_replaced_and_later_ones_stay(lake, history):
    past, future = history(50), history(80)
    records = [
        VectorRecord(past.instrument, int(t), *v)
        for t, v in zip(future.vectors.ts, future.vectors.values.tolist(), strict=True)
    ]
    rows = tables.records_to_rows("features", records, range(80))
    landing.land(lake, [landing.Batch("features", "features", 0, rows, 80)])
    assert put(lake, past).previous_rows == 50
    assert features.count(lake, "features", past.instrument, *ALL_TIME) == 80
    sources = lake.query("SELECT source FROM features ORDER BY ts_event")["source"].to_pylist()
    assert sources == ["backfill"] * 50 + ["live"] * 30


def test_a_snapshot_reads_the_same_after_the_window_was_replaced(lake, history):
    past, better = history(2_000), history(1_900, seed=1)
    snapshot = put(lake, past).snapshot
    put(lake, better)
    read = features.read_table(lake, "features", past.instrument, *ALL_TIME, snapshot=snapshot)
    assert same(read, past.vectors)
    assert features.count(lake, "features", past.instrument, *ALL_TIME, snapshot=snapshot) == 2_000
    tail = features.count(lake, "features", past.instrument, better.end, 2**62)
    assert tail == 100  # outside the second window


def test_a_reading_stays_in_its_snapshot_though_the_lake_moves_on(lake, history, monkeypatch):
    monkeypatch.setattr(features, "_WINDOW_ROWS", 1_000)
    past = history(4_000)
    put(lake, past)
    batches = features.read(lake, "features", past.instrument, *ALL_TIME)
    parts = [next(batches)]
    features.replace_window(
        lake, "features", past.instrument, *ALL_TIME, tables.SCHEMAS["features"].empty_table(), "run"
    )
    parts += batches
    assert len(parts) == 3  # by day, for a day holds more rows than a window may
    assert same(tables.rows_to_vectors(pa.Table.from_batches(parts)), past.vectors)


def test_the_commit_names_its_run(lake, history):
    made = put(lake, history(10), run="backfill-42").snapshot
    said = lake.query("SELECT commit_message FROM lake.snapshots() WHERE snapshot_id = ?", [made])
    assert said["commit_message"].to_pylist() == ["backfill-42"]


@pytest.mark.parametrize("spoil", ["instrument", "window", "order"])
def test_rows_that_do_not_belong_are_refused_before_anything_is_written(lake, history, spoil):
    past = history(10)
    rows = tables.vectors_to_rows(past.instrument, past.vectors, "backfill")
    instrument = "simulated:ETH-USD" if spoil == "instrument" else past.instrument
    end = past.end - 1 if spoil == "window" else past.end
    if spoil == "order":
        rows = rows.take([1, 0])
    before = lake.snapshot(), len(list(lake.data.rglob("backfill-*")))
    with pytest.raises(BadState):
        features.replace_window(lake, "features", instrument, past.start, end, rows, "run")
    assert (lake.snapshot(), len(list(lake.data.rglob("backfill-*")))) == before


def test_training_rows_hold_nothing_that_was_not_known_by_then(lake, history):
    past = history(600)
    put(lake, past)
    rows = tables.examples_to_rows(past.instrument, past.examples, 300, "backfill")
    made = features.replace_window(lake, "examples", past.instrument, *ALL_TIME, rows, "run")
    start, until = int(past.ts[99]), int(past.ts[399])
    known = features.training_rows(lake, past.instrument, start, until, made.snapshot)
    assert known.vectors.ts.tolist() == past.ts[100:400].tolist()
    assert known.examples.ts.tolist() == past.ts[100:395].tolist()
    assert known.examples.available.max() <= until
    assert known.snapshot == made.snapshot


def test_times_and_span_can_be_told_of_streamed_rows_alone(lake, history):
    past, now = history(100), history(50, first=100)
    put(lake, past)
    rows = tables.vectors_to_rows(now.instrument, now.vectors, "live")
    features.replace_window(lake, "features", now.instrument, past.end, now.end, rows, "run")
    of = (lake, "features", past.instrument)
    assert features.read_times(*of, *ALL_TIME).tolist() == [*past.ts, *now.ts]
    assert features.read_times(*of, int(past.ts[9]), int(now.ts[9]), source="live").tolist() == now.ts[:10].tolist()
    assert features.span(*of) == (past.ts[0], now.ts[-1])
    assert features.span(*of, source="live") == (now.ts[0], now.ts[-1])
    assert features.span(lake, "features", "simulated:ETH-USD") is None


def test_examples_that_were_available_before_their_horizon_had_passed_are_counted(lake, history):
    past = history(100)
    early = past.examples.available.copy()
    early[[3, 50]] -= 1
    made = type(past.examples)(past.ts, early, past.examples.values, past.examples.targets)
    rows = tables.examples_to_rows(past.instrument, made, 300, "backfill")
    features.replace_window(lake, "examples", past.instrument, *ALL_TIME, rows, "run")
    assert features.count_early(lake, past.instrument, *ALL_TIME) == 2
    assert features.count_early(lake, past.instrument, int(early[3]), 2**62) == 1


def test_backfills_beside_a_live_lander_lose_nothing(lake, places, history):
    """The lander writes today while yesterday is replaced again and again, under the reader's eyes."""
    past = history(1_440)
    today, stop, torn = history.start + 2 * NANOS_PER_DAY, threading.Event(), []
    put(lake, past)

    def land_today() -> None:
        with Lake.open(places) as mine:
            values, off = [0.0] * len(FEATURES), 0
            while not stop.is_set():
                ts = [today + (off + k) * NANOS_PER_MINUTE // 1_000 for k in range(20)]
                records = [VectorRecord(past.instrument, t, *values) for t in ts]
                rows = tables.records_to_rows("features", records, range(off, off + 20))
                landing.land(mine, [landing.Batch("features", "features", 0, rows, off + 20)])
                off += 20

    def watch() -> None:
        with Lake.open(places, read_only=True) as mine:
            while not stop.is_set():
                n = features.count(mine, "features", past.instrument, past.start, past.end)
                if n != 1_440:
                    torn.append(n)

    threads = [threading.Thread(target=work) for work in (land_today, watch)]
    for thread in threads:
        thread.start()
    try:
        while (landing.landed(lake, "features", 0) or landing.Landed(0, 0)).next_offset < 200:
            replaced = put(lake, past)
            assert replaced.previous_rows == 1_440
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not torn
    assert same(features.read_table(lake, "features", past.instrument, past.start, past.end), past.vectors)
    live = features.read_table(lake, "features", past.instrument, past.end, 2**62)
    end = landing.landed(lake, "features", 0)
    assert len(live) == len(set(live.ts.tolist())) == end.next_offset
    assert live.ts[-1] == end.last_ts
