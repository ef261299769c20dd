"""Days of history, materialized by Dagster into a real lake."""

import dagster as dg
import numpy as np
import pyarrow as pa

from assets.history import ends_of
from assets.partitions import history_of
from domain.bars import MISSING, BarState, add_trades, close_until
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.pipeline import Pipeline
from domain.tables import BarTable
from domain.topics import BARS
from orchestration.definitions import definitions
from tests.mills import LAST, days, materialized, mill_at
from warehouse.features import count, read_table
from warehouse.landing import Batch, land
from warehouse.tables import SCHEMAS, bars_to_rows

TABLES = ("bars", "features", "examples")


def backfill(mill, instance, tags=None, **more):
    job = definitions(mill.places, mill.project).resolve_job_def("backfill")
    return job.execute_in_process(instance=instance, tags=tags or days(), **more)


def everything(mill, lake, table):
    history = history_of(mill.project)
    return {name: read_table(lake, table, name, 0, history.until + NANOS_PER_DAY) for name in mill.project.instruments}


def test_the_rows_are_those_of_the_pure_pipeline_bit_for_bit(filled):
    mill, _ = filled
    project, history, source = mill.project, history_of(mill.project), mill.source()
    with mill.lake() as lake:
        for name in project.instruments:
            state = BarState.empty(project.interval, project.lateness)
            chunks = source.history(name, history.start, history.until)
            parts = [add_trades(state, chunk, project.interval, project.lateness)[0] for chunk in chunks]
            parts.append(close_until(state, history.until, project.interval))
            bars = BarTable(np.concatenate([p.ts for p in parts]), np.concatenate([p.values for p in parts]))
            vectors, examples = Pipeline.empty(project.interval, project.horizon).extend(bars)
            for table, pure in (("bars", bars), ("features", vectors), ("examples", examples)):
                stored = read_table(lake, table, name, 0, history.until)
                for field, values in vars(pure).items():
                    assert np.array_equal(getattr(stored, field), values, equal_nan=field == "targets"), (table, field)


def test_a_day_holds_the_rows_of_its_own_times_and_says_how_many(filled):
    mill, instance = filled
    first = history_of(mill.project).start
    with mill.lake() as lake:
        for table in TABLES:
            events = materialized(instance, table)[:2]
            assert [event.partition for event in events] == ["2025-01-01", "2025-01-02"]
            for day, event in enumerate(events):
                start = first + day * NANOS_PER_DAY
                there = {n: count(lake, table, n, start, start + NANOS_PER_DAY) for n in mill.project.instruments}
                assert {n: event.metadata[f"rows {n}"].value for n in there} == there
                assert event.metadata["rows"].value == sum(there.values()) > 0
    assert materialized(instance, "bars")[0].metadata["rows"].value == 2 * 1440


def test_a_day_says_what_it_lacks(filled):
    mill, instance = filled
    start = history_of(mill.project).start
    warm_up = 240
    for table, lost in (("bars", 0), ("features", warm_up), ("examples", warm_up + 5)):
        first, second = materialized(instance, table)[:2]
        for event, absent in ((first, lost), (second, 0)):
            assert event.metadata["expected"].value == 2 * 1440
            assert event.metadata["expected"].value - event.metadata["rows"].value == 2 * absent
            assert event.metadata["longest_absent_min"].value == absent
    with mill.lake() as lake:
        missing = [
            read_table(lake, "bars", name, start, start + NANOS_PER_DAY).values[:, MISSING] > 0
            for name in mill.project.instruments
        ]
    event = materialized(instance, "bars")[0]
    assert event.metadata["missing"].value == sum(int(flags.sum()) for flags in missing) > 0
    runs = ["".join("x" if flag else " " for flag in flags).split() for flags in missing]
    assert event.metadata["longest_missing_min"].value == max(len(run) for some in runs for run in some)
    assert "missing" not in first.metadata  # of another table there is no such thing


def test_a_run_is_pictured_once_on_its_newest_day(filled):
    _, instance = filled
    for table, name in zip(TABLES, ("closes", "vectors", "targets"), strict=True):
        older, newest = materialized(instance, table)[:2]
        assert name not in older.metadata
        assert "data:image/png;base64," in newest.metadata[name].value
        assert len(newest.metadata[name].value) <= 100_000
    shares = [event.metadata["missing_share"].value for event in materialized(instance, "bars")]
    assert 0.0 < shares[0] < 0.1


def test_one_day_materialized_again_alone_is_replaced_by_the_same_rows(filled):
    """Its first vectors and examples need the bars of the day before, which are in the lake."""
    mill, instance = filled
    with mill.lake() as lake:
        before = {table: everything(mill, lake, table) for table in TABLES}
    assert backfill(mill, instance, days(LAST, LAST)).success
    with mill.lake() as lake:
        for table in TABLES:
            event = materialized(instance, table)[-1]
            assert event.metadata["run_rows"].value == event.metadata["run_previous_rows"].value > 0
            for name, rows in everything(mill, lake, table).items():
                for field, values in vars(rows).items():
                    assert np.array_equal(values, getattr(before[table][name], field), equal_nan=True)


def test_a_day_that_the_market_has_not_reached_fails_and_writes_nothing(filled):
    mill, instance = filled
    run = backfill(mill, instance, days("2025-01-03", "2025-01-03"), raise_on_error=False)
    assert not run.success
    failure = next(event for event in run.all_events if event.is_step_failure).event_specific_data.error
    assert "the market has come to 2025-01-03 00:00:00 UTC" in str(failure.cause or failure)
    with mill.lake() as lake:
        seam = history_of(mill.project).until
        assert count(lake, "bars", "simulated:BTC-USD", seam, seam + NANOS_PER_DAY) == 0


def test_beside_the_lander_no_row_is_lost_or_doubled(tmp_path, instance):
    """A backfill goes as far as the stream has landed and no further: the rest is the lander's to write."""
    mill = mill_at(tmp_path)
    seam = history_of(mill.project).until
    source, name, interval = mill.source(), "simulated:BTC-USD", mill.project.interval
    state = BarState.after(seam, 1.0, interval, mill.project.lateness)
    streamed = [
        add_trades(state, chunk, interval, mill.project.lateness)[0]
        for chunk in source.history(name, seam, seam + 30 * NANOS_PER_MINUTE)
    ]
    bars = BarTable(np.concatenate([b.ts for b in streamed]), np.concatenate([b.values for b in streamed]))
    rows = bars_to_rows(name, bars, "live").append_column("off", pa.array(range(len(bars)), pa.int64()))
    with mill.lake() as lake:
        land(lake, [Batch("bars", BARS, 0, rows.slice(0, 10), 10, seam)])
        ends = ends_of(mill, lake, "bars")
        assert ends == {name: seam + 10 * NANOS_PER_MINUTE, "simulated:ETH-USD": seam}
        # Vectors are made from bars, but none of them has landed.
        assert set(ends_of(mill, lake, "features").values()) == {seam}
    job = definitions(mill.places, mill.project).resolve_job_def("backfill")
    run = job.execute_in_process(
        instance=instance, tags=days("2025-01-03", "2025-01-03"), asset_selection=[dg.AssetKey("bars")]
    )
    assert run.success
    with mill.lake() as lake:
        assert count(lake, "bars", name, seam, seam + NANOS_PER_DAY) == 10
        land(lake, [Batch("bars", BARS, 0, rows.slice(5), len(bars), seam)])
        stored = read_table(lake, "bars", name, seam, seam + NANOS_PER_DAY)
    assert np.array_equal(stored.ts, bars.ts)
    assert np.array_equal(stored.values[1:], bars.values[1:])
    assert SCHEMAS["bars"].names[0] == "instrument"
