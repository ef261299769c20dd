from dataclasses import replace

import numpy as np
import pytest

from domain.errors import BadState
from domain.events import NANOS_PER_DAY, Bar, Prediction
from domain.features import FEATURES, ExampleRecord, VectorRecord
from warehouse import tables
from warehouse.lake import Lake
from warehouse.landing import Batch, Landed, all_landed, land, landed, realign

BTC, ETH = "simulated:BTC-USD", "simulated:ETH-USD"
ZEROS = [0.0] * len(FEATURES)
DAY = NANOS_PER_DAY


@pytest.fixture
def lake(empty_lake):
    return empty_lake


def batch(offsets, ts=None, *, next_offset=None, partition=0, instrument=BTC, floor=0):
    offsets = list(offsets)
    records = [VectorRecord(instrument, t, *ZEROS) for t in (offsets if ts is None else ts)]
    rows = tables.records_to_rows("features", records, offsets)
    end = next_offset if next_offset is not None else offsets[-1] + 1
    return Batch("features", "features", partition, rows, end, floor)


def times(lake, instrument=BTC):
    sql = "SELECT ts_event FROM features WHERE instrument = ? ORDER BY ts_event"
    return lake.query(sql, [instrument])["ts_event"].to_pylist()


def test_a_partition_that_never_landed_says_so(lake):
    assert landed(lake, "features", 0) is None


def test_rows_and_offset_land_together(lake):
    assert land(lake, [batch(range(1, 4))]) == [3]
    assert times(lake) == [1, 2, 3]
    assert landed(lake, "features", 0) == Landed(4, 3)


def test_a_batch_delivered_again_lands_nothing(lake):
    land(lake, [batch(range(1, 4))])
    before = lake.snapshot()
    assert land(lake, [batch(range(1, 4))]) == [0]
    assert lake.snapshot() == before
    assert times(lake) == [1, 2, 3]


def test_of_a_batch_that_overlaps_only_the_new_part_lands(lake):
    land(lake, [batch(range(1, 4))])
    assert land(lake, [batch(range(2, 7))]) == [3]
    assert times(lake) == [1, 2, 3, 4, 5, 6]


def test_a_row_not_newer_than_the_newest_is_a_re_emission(lake):
    land(lake, [batch([0, 1, 2], [10, 20, 30])])
    assert land(lake, [batch([3, 4, 5, 6, 7], [20, 30, 40, 35, 50])]) == [2]
    assert times(lake) == [10, 20, 30, 40, 50]
    assert landed(lake, "features", 0) == Landed(8, 50)


def test_rows_at_or_before_the_floor_came_with_the_backfill(lake):
    assert land(lake, [batch([0, 1, 2], [90, 100, 110], floor=100)]) == [1]
    assert times(lake) == [110]


def test_the_floor_counts_only_once(lake):
    land(lake, [batch([0], [50])])
    assert land(lake, [batch([1], [60], floor=100)]) == [1]


def test_refused_records_move_the_offset_without_a_row(lake):
    land(lake, [batch([], next_offset=9, floor=5)])
    assert landed(lake, "features", 0) == Landed(9, 5)
    assert times(lake) == []


def test_all_tables_and_partitions_land_in_one_snapshot(lake):
    bars = [Bar(BTC, t, 1, 2, 0.5, 1.5, 10) for t in (1, 2)]
    examples = [ExampleRecord(BTC, 1, *ZEROS, 5, 300, 0.5, None, 1.0), ExampleRecord(BTC, 2, *ZEROS, 6, 300, 0, 1.0, 1)]
    predictions = [Prediction("p", ETH, 1, 300, 0.1, 0.5, 1.0, 3, 1000, 0, 99)]
    batches = [
        Batch("bars", "bars", 0, tables.records_to_rows("bars", bars, [0, 1]), 2),
        batch(range(1, 4)),
        batch(range(1, 3), partition=1, instrument=ETH),
        Batch("examples", "features_with_target", 0, tables.records_to_rows("examples", examples, [0, 1]), 2),
        Batch("predictions", "predictions", 1, tables.records_to_rows("predictions", predictions, [0]), 1),
    ]
    land(lake, [batch([0], [0], partition=5)])  # so that only the others' first offsets are created below
    before = lake.snapshot()
    assert land(lake, batches) == [2, 3, 2, 2, 1]
    assert lake.snapshot() == before + 2  # their offsets at the floor, then all the rest
    assert all_landed(lake)["features_with_target", 0] == Landed(2, 6)
    found = lake.query("SELECT direction, horizon_s, source FROM examples ORDER BY ts_available").to_pylist()
    assert [row["direction"] for row in found] == [None, 1.0]
    assert {(row["horizon_s"], row["source"]) for row in found} == {(300, "live")}
    assert lake.query("SELECT * EXCLUDE (day) FROM predictions").to_pylist()[0]["n_learned"] == 1000


def test_a_row_belongs_to_the_day_in_which_its_interval_lies(lake):
    land(lake, [batch([0, 1, 2], [DAY, DAY + 1, 2 * DAY])])
    days = lake.query("SELECT day FROM features ORDER BY ts_event")["day"].to_pylist()
    assert [day.isoformat() for day in days] == ["1970-01-01", "1970-01-02", "1970-01-02"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda: [batch([2, 1], [1, 2], next_offset=3)], "do not increase"),
        (lambda: [batch([1, 2], next_offset=2)], "do not increase"),
        (lambda: [batch([1]), batch([2])], "two batches of one partition"),
        (lambda: [Batch("bars", "bars", 0, batch([1]).rows, 2)], "have columns"),
        (lambda: [Batch("features", "features", 0, batch([1]).rows.drop_columns(["off"]), 2)], "lack the last column"),
    ],
)
def test_a_malformed_batch_is_refused_and_lands_nothing(lake, bad, told):
    with pytest.raises(BadState, match=told):
        land(lake, bad())
    assert all_landed(lake) == {}


def test_a_partition_with_two_instruments_is_refused(lake):
    records = [VectorRecord(name, k, *ZEROS) for k, name in enumerate([BTC, ETH])]
    with pytest.raises(BadState, match="several instruments"):
        land(lake, [Batch("features", "features", 0, tables.records_to_rows("features", records, [0, 1]), 2)])


def check_exactly_once(places, children):
    """Every tenth record of the stream repeats a time and must not land; all others land once."""
    total = 2_000
    expected = [1 + off for off in range(total) if off % 10 != 9]
    with Lake.open(places, read_only=True) as lake:
        assert landed(lake, "features", 0) == Landed(total, expected[-1])
        assert times(lake) == expected
    assert sum(said["inserted"] for child in children for said in child["said"]) <= len(expected)
    assert np.diff([s["next_offset"] for s in children[-1]["said"]]).min(initial=1) > 0


def test_three_processes_landing_the_same_stream_land_it_once(processes, places):
    children = processes("land")
    check_exactly_once(places, children)
    assert sum(said["inserted"] for child in children for said in child["said"]) == 1_800


@pytest.mark.process
def test_a_lander_killed_at_random_moments_loses_and_doubles_nothing(processes, places):
    children = processes("land-killed")
    assert [child["status"] for child in children].count(-9) >= 2
    check_exactly_once(places, children)
    reached = 0
    for child in children:  # what was acknowledged was durable: the next one never starts before it
        if child["said"]:
            assert child["said"][0]["next_offset"] > reached
            reached = child["said"][-1]["next_offset"]


def test_a_batch_of_another_log_is_refused_until_the_partition_is_realigned(lake):
    land(lake, [replace(batch([0, 1, 2], [10, 20, 30]), log="first")])
    anew = replace(batch([0, 1, 2], [20, 30, 40]), log="second")
    with pytest.raises(BadState, match="made anew"):
        land(lake, [anew])
    realign(lake, {("features", 0): (0, "second"), ("features", 9): (0, "second")})
    assert landed(lake, "features", 0) == Landed(0, 30, "second")
    assert landed(lake, "features", 9) is None
    assert land(lake, [anew]) == [1]
    assert times(lake) == [10, 20, 30, 40]


def test_a_log_that_lost_its_end_lands_what_grew_in_its_place(lake):
    land(lake, [batch(range(5), [10, 20, 30, 40, 50])])
    realign(lake, {("features", 0): (2, "")})
    assert land(lake, [batch([2, 3, 4], [50, 60, 70])]) == [2]
    assert times(lake) == [10, 20, 30, 40, 50, 60, 70]
