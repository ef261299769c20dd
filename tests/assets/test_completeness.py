"""Days that lost rows are named, and what the source never told is not asked for again."""

import dagster as dg
import numpy as np
import pytest

from assets.completeness import MISSING_DAYS, TABLES
from assets.partitions import history_of
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from orchestration.definitions import definitions
from tests.mills import TOML, days, mill_at
from warehouse.features import read_table

BTC = "simulated:BTC-USD"
ONE = TOML.replace(', "simulated:ETH-USD"', "").replace("history_days = 2", "history_days = 3")
FIRST, MIDDLE, LAST = "2024-12-31", "2025-01-01", "2025-01-02"
EVER = (0, 2**62)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A mill with three whole days of one instrument, the instance that knows of them, and hands on both.

    A test leaves it whole.
    """
    mill = mill_at(tmp_path_factory.mktemp("whole"), ONE)
    defs = definitions(mill.places, mill.project)

    class Scene:
        start = history_of(mill.project).start

        def refill(self, first=FIRST, last=LAST):
            job = defs.resolve_job_def("refill")
            run = job.execute_in_process(instance=instance, tags=days(first, last))
            return {e.asset_key.path[0]: e for e in run.get_asset_check_evaluations() if e.check_name == "complete"}

        def judge(self):
            keys = [dg.AssetCheckKey(dg.AssetKey(table), "complete") for table in TABLES]
            job = dg.define_asset_job("judge", dg.AssetSelection.checks(*keys))
            given = dg.Definitions(
                assets=defs.assets, asset_checks=defs.asset_checks, jobs=[job], resources=defs.resources
            )
            run = given.resolve_job_def("judge").execute_in_process(instance=instance, raise_on_error=False)
            return {e.asset_key.path[0]: e for e in run.get_asset_check_evaluations()}

        def lose(self, *tables, after, until):
            """Lose the rows of these minutes."""
            window = [self.start + after * NANOS_PER_MINUTE, self.start + until * NANOS_PER_MINUTE]
            with mill.lake() as lake:
                for table in tables:
                    time = "ts_available" if table == "examples" else "ts_event"
                    sql = f"DELETE FROM {table} WHERE {time} > ? AND {time} <= ?"  # noqa: S608 - names of ours
                    lake.write(lambda c, sql=sql: c.execute(sql, window))

        def rows(self):
            with mill.lake() as lake:
                return {table: read_table(lake, table, BTC, *EVER) for table in TABLES}

    with dg.DagsterInstance.ephemeral() as instance:
        scene = Scene()
        assert all(said.passed for said in scene.refill().values())
        yield scene


def lost(said):
    return said.metadata[MISSING_DAYS].value


def test_whole_days_lack_nothing_though_the_first_vectors_need_bars_before_them(whole):
    for said in whole.judge().values():
        assert said.passed
        assert lost(said) == []
        assert said.metadata["absent"].value == 0


def test_a_lost_day_is_named_and_a_refill_brings_back_its_very_rows(whole):
    before = whole.rows()
    whole.lose(*TABLES, after=1440, until=2880)
    said = whole.judge()
    assert not said["bars"].passed
    assert said["bars"].severity == dg.AssetCheckSeverity.ERROR
    assert said["bars"].description == f"bars of {MIDDLE}/{MIDDLE} lack 1,440 rows"
    assert lost(said["bars"]) == [f"{MIDDLE}/{MIDDLE}"]
    assert all(said.passed for said in whole.refill(MIDDLE, MIDDLE).values())
    for table, rows in whole.rows().items():
        for field, values in vars(rows).items():
            assert np.array_equal(values, getattr(before[table], field), equal_nan=True), (table, field)


@pytest.mark.parametrize("table", ["features", "examples"])
def test_rows_that_were_lost_of_one_table_alone_are_missed_there(whole, table):
    whole.lose(table, after=2000, until=2001)
    said = whole.judge()
    assert {name for name, one in said.items() if not one.passed} == {table}
    assert lost(said[table]) == [f"{MIDDLE}/{MIDDLE}"]
    assert said[table].description == f"{table} of {MIDDLE}/{MIDDLE} lack 1 rows"
    assert whole.refill(MIDDLE, MIDDLE)[table].passed


def test_all_of_history_lost_is_one_range_of_days(whole):
    whole.lose(*TABLES, after=0, until=3 * 1440)
    assert lost(whole.judge()["bars"]) == [f"{FIRST}/{LAST}"]
    assert whole.refill()["bars"].passed


def test_what_the_source_does_not_tell_is_not_missed(whole, monkeypatch):
    """As of a market that began in the midst of history: a day is whole when it has what a run could write."""
    from assets import backfill

    honest = backfill._history

    def later(lake, source, project, instrument, start, end):
        bars, refused = honest(lake, source, project, instrument, start, end)
        keep = bars.ts > whole.start + NANOS_PER_DAY
        return type(bars)(bars.ts[keep], bars.values[keep]), refused

    whole.lose(*TABLES, after=0, until=1440)
    assert lost(whole.judge()["bars"]) == [f"{FIRST}/{FIRST}"]
    monkeypatch.setattr(backfill, "_history", later)
    said = whole.refill(FIRST, FIRST)["bars"]
    assert said.passed
    assert said.metadata["absent"].value == 1440
    assert lost(whole.judge()["bars"]) == []
    monkeypatch.undo()
    assert whole.refill(FIRST, FIRST)["bars"].metadata["absent"].value == 0
