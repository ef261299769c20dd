"""Thinning on a real instance in both storages: much goes, and nothing that an asset's page says of today changes."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEventType as Kind
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable
from dagster._core.test_utils import freeze_time

from orchestration.thinning import drop_runs, thin
from tests.instances import STORAGES, instance_at

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LINE, SERVICE = dg.AssetKey(["model_versions", "line"]), dg.AssetKey(["services", "trainer"])
PASSED = dg.AssetCheckEvaluation(SERVICE, "lag", passed=True)
DAYS = dg.StaticPartitionsDefinition([f"2025-01-0{n}" for n in range(1, 4)])


@pytest.fixture(scope="module", params=STORAGES)
def instance(request, tmp_path_factory):
    url = request.getfixturevalue("postgres").database() if request.param == "postgresql" else ""
    with instance_at(tmp_path_factory.mktemp(request.param), url) as instance:
        yield instance


@pytest.fixture(autouse=True)
def emptied(instance):
    yield
    instance.event_log_storage.delete_events("")  # SQLite's file of what has no run is hidden from wiping
    instance.wipe()


def report(instance, ago, *events):
    with freeze_time(NOW - ago):
        for event in events:
            instance.report_runless_asset_event(event)


def version(number):
    tags = {"dagster/data_version": f"v{number}"}
    return dg.AssetMaterialization(LINE, metadata={"version": number}, tags=tags)


def kept(instance, key=LINE):
    return [r.asset_materialization.metadata["version"].value for r in materializations(instance, key)]


def materializations(instance, key):
    return list(reversed(instance.fetch_materializations(key, limit=1000).records))


def rows(instance, table):
    with instance.event_log_storage.index_connection() as connection:
        return connection.execute(table.select()).all()


def outcomes(instance, name):
    key = dg.AssetCheckKey(LINE, name)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
    return Counter(record.status.value for record in history)


def test_all_stay_for_a_day_then_one_an_hour_for_a_week_then_one_a_day_for_a_year(instance):
    aged = [400 * DAY, 300 * DAY, 300 * DAY - 5 * HOUR, 50 * HOUR, 50 * HOUR - DAY / 96, 3 * HOUR, 3 * HOUR - DAY / 96]
    for number, ago in enumerate(aged):
        report(instance, ago, version(number))
    assert thin(instance, NOW.timestamp()) == 3
    assert kept(instance) == [1, 3, 5, 6]
    assert thin(instance, NOW.timestamp()) == 0
    assert [row.value for row in rows(instance, AssetEventTagsTable)] == ["v1", "v3", "v5", "v6"]


def test_both_copies_of_an_event_go(instance):
    for number in range(4):
        report(instance, 400 * DAY, version(number), dg.AssetCheckEvaluation(LINE, "skill", passed=True))
    thin(instance, NOW.timestamp())
    left = instance.event_log_storage.get_records_for_run("").records
    assert Counter(record.event_log_entry.dagster_event_type for record in left) == {
        Kind.ASSET_MATERIALIZATION: 1,
        Kind.ASSET_CHECK_EVALUATION: 1,
    }


def test_the_newest_of_each_kind_and_asset_stays_at_any_age(instance):
    report(instance, 700 * DAY, version(1), dg.AssetObservation(LINE, metadata={"of": 1}))
    report(instance, 600 * DAY, version(2), dg.AssetObservation(LINE, metadata={"of": 2}))
    report(instance, 500 * DAY, dg.AssetObservation(SERVICE, metadata={"of": 3}))
    before = instance.get_latest_materialization_event(LINE)
    assert thin(instance, NOW.timestamp()) == 2
    assert kept(instance) == [2]
    assert instance.get_latest_materialization_event(LINE) == before
    [record] = instance.get_asset_records([LINE])
    assert record.asset_entry.last_materialization.asset_materialization.metadata["version"].value == 2
    for key, of in ((LINE, 2), (SERVICE, 3)):
        [seen] = instance.fetch_observations(key, limit=9).records
        assert seen.asset_observation.metadata["of"].value == of


def test_a_failed_evaluation_never_gives_way_to_a_passed_one(instance):
    for passed in (True, False, True, True, False, True):
        report(instance, 50 * HOUR, dg.AssetCheckEvaluation(LINE, "skill", passed=passed))
    report(instance, 400 * DAY, dg.AssetCheckEvaluation(LINE, "lag", passed=False))
    thin(instance, NOW.timestamp())
    assert outcomes(instance, "skill") == {"SUCCEEDED": 2, "FAILED": 2}  # the first of the hour, and the newest
    assert outcomes(instance, "lag") == {"FAILED": 1}
    keys = [dg.AssetCheckKey(LINE, name) for name in ("skill", "lag")]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert [latest[key].evaluation.passed for key in keys] == [True, False]


def test_partitions_and_assets_that_no_sensor_reports_are_left_alone(instance):
    bars = dg.AssetKey("bars")
    for _ in range(3):
        report(instance, 900 * DAY, dg.AssetMaterialization(bars, partition="2025-01-01"))
        report(instance, 900 * DAY, dg.AssetMaterialization(bars), dg.AssetMaterialization(LINE, partition="p"))
        report(instance, 900 * DAY, dg.AssetCheckEvaluation(bars, "whole", passed=True))
    assert thin(instance, NOW.timestamp()) == 0
    assert len(materializations(instance, bars)) == 6
    assert instance.get_materialized_partitions(bars) == {"2025-01-01"}


def test_more_than_a_transactions_worth_goes(instance, monkeypatch):
    monkeypatch.setattr("orchestration.thinning._AT_ONCE", 3)
    for number in range(10):
        report(instance, 2 * DAY, version(number))
    assert thin(instance, NOW.timestamp()) == 8
    assert kept(instance) == [0, 9]


@dg.asset(key=SERVICE, check_specs=[dg.AssetCheckSpec("lag", asset=SERVICE)])
def trainer():
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="lag")])


@dg.asset(partitions_def=DAYS)
def bars():
    return dg.MaterializeResult()


DEFS = dg.Definitions(
    assets=[trainer, bars],
    jobs=[dg.define_asset_job("redeploy", [trainer]), dg.define_asset_job("backfill", [bars])],
    executor=dg.in_process_executor,
)


def execute(instance, job, ago, **options):
    with freeze_time(NOW - ago):
        done = DEFS.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=True, **options)
    return done.run_id


def test_an_old_run_goes_with_everything_it_logged_but_not_the_one_that_holds_what_is_newest(instance):
    old, held = execute(instance, "redeploy", 60 * DAY), execute(instance, "redeploy", 50 * DAY)
    history = execute(instance, "backfill", 60 * DAY, partition_key="2025-01-02")
    assert drop_runs(instance, ["redeploy"], (NOW - 30 * DAY).timestamp()) == 1
    assert instance.get_run_by_id(old) is None
    assert instance.get_run_by_id(held) is not None
    assert instance.get_run_by_id(history) is not None
    assert [record.run_id for record in materializations(instance, SERVICE)] == [held]
    assert [row.run_id for row in rows(instance, AssetCheckExecutionsTable)] == [held]
    assert instance.get_materialized_partitions(dg.AssetKey("bars")) == {"2025-01-02"}
    assert not list(Path(instance.root_directory).rglob(f"*{old}*")), "nor its file in SQLite"
    assert drop_runs(instance, ["redeploy"], (NOW - 30 * DAY).timestamp()) == 0


def test_young_runs_runs_under_way_and_runs_of_other_jobs_stay(instance):
    execute(instance, "redeploy", 29 * DAY)
    execute(instance, "backfill", 60 * DAY, partition_key="2025-01-01")
    with freeze_time(NOW - 60 * DAY):
        instance.create_run_for_job(DEFS.resolve_job_def("redeploy"), status=dg.DagsterRunStatus.STARTED)
    later = dg.AssetMaterialization(dg.AssetKey("bars"), partition="2025-01-01")
    report(instance, DAY, dg.AssetMaterialization(SERVICE), PASSED, later)
    assert drop_runs(instance, ["redeploy"], (NOW - 30 * DAY).timestamp()) == 0
    assert drop_runs(instance, ["redeploy"], (NOW - 28 * DAY).timestamp()) == 1
    assert len(instance.get_runs()) == 2


def test_a_run_that_holds_only_the_newest_evaluation_of_a_check_stays(instance):
    execute(instance, "redeploy", 60 * DAY)
    report(instance, DAY, dg.AssetMaterialization(SERVICE))
    assert drop_runs(instance, ["redeploy"], (NOW - 30 * DAY).timestamp()) == 0
    report(instance, DAY, PASSED)
    assert drop_runs(instance, ["redeploy"], (NOW - 30 * DAY).timestamp()) == 1
