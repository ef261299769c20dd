"""What is made from history stops at a gap, at a skew is told, and never looks ahead."""

import time

import dagster as dg
import numpy as np
import pytest

from assets import backfill
from assets.history_checks import LATE_S, LOST_S, fresh, gapless, no_look_ahead, no_skew
from assets.partitions import history_of
from domain.bars import MAX_FILL
from domain.events import NANOS_PER_MINUTE
from domain.features import vectors
from domain.health import Beat
from domain.tables import BarTable, ExampleTable, VectorTable
from orchestration.definitions import definitions
from tests.domain.samples import walk
from tests.mills import FIRST, LAST, TOML, days, materialized, mill_at
from warehouse.features import read_table, replace_window
from warehouse.heartbeats import Heartbeats
from warehouse.tables import bars_to_rows, examples_to_rows, vectors_to_rows

BTC = "simulated:BTC-USD"
ONE = TOML.replace(', "simulated:ETH-USD"', "")
"""One instrument is enough where rows are spoiled."""

EVER = (0, 2**62)
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@pytest.fixture
def mill(tmp_path):
    return mill_at(tmp_path, ONE)


def seen(check, mill, tags=None):
    """Run a check alone and return what it says."""
    job = dg.Definitions(asset_checks=[check], resources={"mill": mill}).resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(tags=tags or {}, raise_on_error=False)
    [evaluation] = run.get_asset_check_evaluations()
    return evaluation


def put(lake, name, bars, keep=slice(None)):
    """Write bars, their vectors and examples of one instrument."""
    asked = vectors(bars, 0, NANOS_PER_MINUTE)
    known = backfill.examples(bars, asked, 0, 5 * NANOS_PER_MINUTE, NANOS_PER_MINUTE)
    kept = BarTable(bars.ts[keep], bars.values[keep])
    replace_window(lake, "bars", name, *EVER, bars_to_rows(name, kept, "backfill"), "run")
    replace_window(lake, "features", name, *EVER, vectors_to_rows(name, asked, "live"), "run")
    replace_window(lake, "examples", name, *EVER, examples_to_rows(name, known, 300, "live"), "run")


def fill(mill, n=400):
    """Write rows that end at the seam."""
    with mill.lake() as lake:
        put(lake, BTC, walk(1, n, start=history_of(mill.project).until - n * NANOS_PER_MINUTE))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A mill with some hours of rows that nobody changes."""
    mill = mill_at(tmp_path_factory.mktemp("drawn"), ONE)
    fill(mill)
    return mill


# ---- gapless


def test_whole_days_have_no_gap(filled):
    mill, _ = filled
    for tags in (days(FIRST, LAST), {"dagster/partition": LAST}, None):
        said = seen(gapless(), mill, tags)
        assert said.passed
        n = 1440 if tags and "dagster/partition" in tags else 2880
        assert said.metadata[f"rows {BTC}"].value == said.metadata[f"expected {BTC}"].value == n


def test_a_gap_in_the_bars_stops_everything_behind_it_in_the_same_run(mill, instance, monkeypatch):
    whole = backfill.replace_window

    def losing(lake, table, instrument, start, end, rows, run_id):
        if table == "bars":
            rows = rows.take([i for i in range(rows.num_rows) if not 700 <= i < 707])
        return whole(lake, table, instrument, start, end, rows, run_id)

    monkeypatch.setattr(backfill, "replace_window", losing)
    job = definitions(mill.places, mill.project).resolve_job_def("backfill")
    run = job.execute_in_process(instance=instance, tags=days(FIRST, FIRST), raise_on_error=False)
    assert not run.success
    [said] = run.get_asset_check_evaluations()
    assert (said.check_name, said.passed, said.severity) == ("gapless", False, ERROR)
    assert said.description == f"{BTC} lacks 7 bars after 2025-01-01 11:40:00 UTC"
    assert len(materialized(instance, "bars")) == 1
    assert materialized(instance, "features") == materialized(instance, "examples") == []


def test_without_a_gap_the_same_run_goes_on(filled):
    _, instance = filled
    assert materialized(instance, "features")


def test_a_doubled_bar_is_a_fault(mill):
    fill(mill)
    with mill.lake() as lake:
        lake.write(lambda c: c.execute("INSERT INTO bars SELECT * FROM bars WHERE instrument = ? LIMIT 1", [BTC]))
    said = seen(gapless(), mill)
    assert (said.passed, said.severity) == (False, ERROR)
    assert said.description == f"{BTC} has 1 doubled bars and 0 beside the grid"


def test_a_pause_longer_than_the_stream_fills_is_a_warning_and_stops_nothing(tmp_path):
    mill = mill_at(tmp_path, ONE.replace("history_days = 2", "history_days = 9"))
    history, hole = history_of(mill.project), MAX_FILL + 5
    with mill.lake() as lake:
        bars = walk(1, 9 * 1440, start=history.start)
        put(lake, BTC, bars, np.r_[0:500, 500 + hole : len(bars)])
    said = seen(gapless(), mill, days("2024-12-25", LAST))
    assert (said.passed, said.severity) == (False, WARN)
    assert f"{BTC} lacks {hole} bars" in said.description


def test_without_bars_the_check_does_not_pass(mill):
    said = seen(gapless(), mill)
    assert (said.passed, said.severity) == (False, WARN)
    assert said.description == f"not judged: {BTC} has no bar yet; run job backfill"


# ---- fresh


@pytest.mark.parametrize(
    ("behind_s", "passed", "severity"),
    [(0.0, True, WARN), (LATE_S, True, WARN), (LATE_S + 1, False, WARN), (LOST_S + 1, False, ERROR)],
)
def test_rows_may_be_a_minute_of_the_walls_clock_behind_the_market(drawn, behind_s, passed, severity):
    mill = drawn
    newest, now = history_of(mill.project).until, time.time()
    detail = {"watermark": newest + int(behind_s * mill.project.market.speed * 1e9)}
    with mill.control() as control:
        assert Heartbeats(control).beat(Beat("featurizer", "a", 1, "running", 0, {}, 1, now, 0, True, now, now, detail))
    for table in ("bars", "features", "examples"):
        said = seen(fresh(table), mill)
        assert (said.passed, said.severity) == (passed, severity)
        assert said.metadata[f"behind_s {BTC}"].value == pytest.approx(behind_s, abs=0.1)


def test_before_the_market_has_begun_nothing_is_called_fresh(filled):
    mill, _ = filled
    said = seen(fresh("bars"), mill)
    assert (said.passed, said.severity) == (False, WARN)
    assert said.description.startswith("not judged: the market's clock has not begun")


# ---- no_skew


def test_streamed_vectors_equal_those_computed_again(drawn):
    said = seen(no_skew(), drawn)
    assert said.passed
    assert said.metadata[f"compared {BTC}"].value >= 160


def test_one_bit_of_one_streamed_vector_is_a_skew(mill):
    fill(mill)
    with mill.lake() as lake:
        stored = read_table(lake, "features", BTC, *EVER)
        stored.values[-7, 3] = np.nextafter(stored.values[-7, 3], np.inf)
        replace_window(lake, "features", BTC, *EVER, vectors_to_rows(BTC, stored, "live"), "run")
    said = seen(no_skew(), mill)
    assert (said.passed, said.severity) == (False, ERROR)
    assert said.description == f"vector of {BTC} at 2025-01-02 23:54:00 UTC differs"


def test_a_vector_whose_bar_has_not_landed_yet_is_no_skew(mill):
    fill(mill)
    with mill.lake() as lake:
        bars = read_table(lake, "bars", BTC, *EVER)
        fewer = BarTable(bars.ts[:-2], bars.values[:-2])
        replace_window(lake, "bars", BTC, *EVER, bars_to_rows(BTC, fewer, "live"), "run")
    assert seen(no_skew(), mill).passed


def test_where_nothing_was_streamed_there_is_no_verdict_on_skew(filled):
    mill, _ = filled
    said = seen(no_skew(), mill)
    assert (said.passed, said.severity) == (False, WARN)
    assert said.description.startswith("not judged: no streamed vector")


# ---- no_look_ahead


def test_examples_of_history_look_no_further_than_they_may(filled):
    mill, _ = filled
    for tags in (days(), None):
        said = seen(no_look_ahead(), mill, tags)
        assert said.passed
        assert said.metadata[f"compared {BTC}"].value > 0


def rewritten(mill, change):
    """Write all examples of one instrument anew, changed."""
    with mill.lake() as lake:
        rows = change(read_table(lake, "examples", BTC, *EVER))
        replace_window(lake, "examples", BTC, *EVER, examples_to_rows(BTC, rows, 300, "backfill"), "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: ExampleTable(e.ts[:-1], e.available[:-1], e.values[1:], e.targets[:-1]),
        lambda e: ExampleTable(e.ts[:-1], e.available[:-1], e.values[:-1], e.targets[1:]),
    ],
    ids=["vectors of the next bar", "answers of the next bar"],
)
def test_rows_that_know_the_next_bar_are_found_out(mill, change):
    fill(mill)
    rewritten(mill, change)
    said = seen(no_look_ahead(), mill)
    assert (said.passed, said.severity) == (False, ERROR)
    assert f"example of {BTC}, known at" in said.description


def test_an_example_that_is_there_before_its_horizon_has_passed_is_found_out(mill):
    fill(mill)
    rewritten(mill, lambda e: ExampleTable(e.ts, e.available - NANOS_PER_MINUTE, e.values, e.targets))
    said = seen(no_look_ahead(), mill)
    assert not said.passed
    assert said.description.startswith(f"155 examples of {BTC} were available before their horizon had passed")


def test_no_first_model_is_trained_on_rows_that_look_ahead(mill, instance, monkeypatch):
    honest = backfill.vectors

    def peeking(bars, after, interval):
        made = honest(bars, after, interval)
        return VectorTable(made.ts, np.roll(made.values, -1, axis=0))

    monkeypatch.setattr(backfill, "vectors", peeking)
    selection = [dg.AssetKey(name) for name in ("bars", "features", "examples", "initial_model")]
    job = definitions(mill.places, mill.project).resolve_job_def("bootstrap")
    run = job.execute_in_process(instance=instance, tags=days(), asset_selection=selection, raise_on_error=False)
    assert not run.success
    said = {evaluation.check_name: evaluation for evaluation in run.get_asset_check_evaluations()}
    assert said["gapless"].passed
    assert not said["no_look_ahead"].passed
    assert materialized(instance, "examples")
    assert materialized(instance, "initial_model") == []
