"""Dagster's instance in both of its storages, and what is said when one of them cannot be had."""

import contextlib
import importlib.util
import logging
import os
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

from domain.config import Places
from domain.errors import Unavailable, UsageError
from orchestration import doctor
from orchestration.deployment import Deployment
from orchestration.instance import lend_url, prepare_instance
from tests.instances import STORAGES, instance_at
from tests.mills import mill_at
from tests.postgresql import PASSWORD, USER

DAYS = dg.StaticPartitionsDefinition(["2025-01-01", "2025-01-02"])
VERSIONS = dg.AssetKey(["model_versions", "line"])
NOWHERE = f"postgresql://{USER}:{PASSWORD.replace('/', '%2F')}@127.0.0.1:1/mill"


@pytest.fixture(scope="module", params=STORAGES)
def instance(request, tmp_path_factory):
    url = request.getfixturevalue("postgres").database() if request.param == "postgresql" else ""
    with instance_at(tmp_path_factory.mktemp(request.param), url) as instance:
        assert request.param in type(instance.event_log_storage).__module__.replace("postgres.", "postgresql.")
        yield instance


def test_partitions_runless_events_checks_and_ticks_are_kept(instance):
    @dg.asset(partitions_def=DAYS)
    def bars():
        return None

    job = dg.Definitions(assets=[bars], jobs=[dg.define_asset_job("fill", [bars])]).resolve_job_def("fill")
    assert job.execute_in_process(instance=instance, partition_key="2025-01-01").success
    assert instance.get_materialized_partitions(dg.AssetKey("bars")) == {"2025-01-01"}

    instance.report_runless_asset_event(dg.AssetMaterialization(VERSIONS, metadata={"version": 7}))
    latest = instance.get_latest_materialization_event(VERSIONS)
    assert latest.asset_materialization.metadata["version"].value == 7

    check = dg.AssetCheckKey(VERSIONS, "skill")
    for passed in (True, False):
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(VERSIONS, "skill", passed, {}))
    [record] = instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).values()
    assert record.evaluation.passed is False


SENSORS = """
import dagster as dg

def sensor(name, result):
    @dg.sensor(name=name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
    def tick(context):
        return result(str(int(context.cursor or 0) + 1))
    return tick

defs = dg.Definitions(sensors=[
    sensor("says_why", lambda n: dg.SensorResult(skip_reason="nothing new", cursor=n)),
    sensor("moves_its_cursor", lambda n: dg.SensorResult(cursor=n)),
    sensor("fails", lambda n: 1 / 0),
])
"""


def test_ticks_are_purged_by_the_daemon_and_cursors_go_on(instance, tmp_path):
    """Ticks that ask for no run count as skipped, those that only move a cursor or report events too."""
    (tmp_path / "sensors.py").write_text(SENSORS)
    origin = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(tmp_path / "sensors.py"))
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin))
    now, quiet = datetime(2026, 3, 10, 12, tzinfo=UTC), logging.getLogger("quiet")
    quiet.setLevel(logging.CRITICAL + 1)
    with WorkspaceProcessContext(instance, target) as workspace:
        for hours in (200, 26, 23, 0):
            with freeze_time(now - timedelta(hours=hours)):
                list(execute_sensor_iteration(workspace, quiet, None, None))
    states = {state.instigator_name: state for state in instance.all_instigator_state()}
    kept = {
        name: [(now.timestamp() - tick.timestamp) / 3600 for tick in ticks_of(instance, state)]
        for name, state in states.items()
    }
    assert kept == {"says_why": [0, 23], "moves_its_cursor": [0, 23], "fails": [0, 23, 26]}
    assert states["says_why"].instigator_data.cursor == states["moves_its_cursor"].instigator_data.cursor == "4"


def ticks_of(instance, state):
    return instance.get_ticks(state.instigator_origin_id, state.selector_id)


def test_dagster_s_tables_are_there_before_two_of_its_processes_would_make_them(tmp_path):
    directory = prepare_instance(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in directory.rglob("*.db")}
    assert {path.name for path in made} >= {"runs.db", "index.db", "schedules.db"}
    for path in made:
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert len(database.execute("select version_num from alembic_version").fetchall()) == 1
    prepare_instance(tmp_path)
    assert made == {path: path.stat().st_mtime_ns for path in made}, "and they are made once"


def test_the_doctor_says_when_dagster_s_tables_are_spoilt(tmp_path):
    directory = prepare_instance(tmp_path)
    assert doctor._storage(Places(home=tmp_path)).startswith("SQLite below")
    with contextlib.closing(sqlite3.connect(directory / "schedules" / "schedules.db")) as database:
        database.execute("insert into alembic_version values ('5771160a95ad')")
        database.commit()
    finding = doctor._tried("storage", lambda: doctor._storage(Places(home=tmp_path)))
    assert not finding.well
    assert "cannot be opened" in finding.words
    assert "nothing that is served" in finding.words


def test_a_password_is_left_in_the_environment(tmp_path, postgres):
    url = postgres.database()
    settings = prepare_instance(tmp_path, url) / "dagster.yaml"
    assert "TIDEMILL_DAGSTER_URL" in settings.read_text()
    assert "secret" not in settings.read_text()
    assert "storage:" not in (prepare_instance(tmp_path) / "dagster.yaml").read_text(), "and SQLite comes back"


def test_the_url_of_dagster_s_storage_is_in_the_environment_of_its_own_processes_alone(tmp_path, monkeypatch):
    mill = mill_at(tmp_path)
    places = Places(home=tmp_path, dagster_url="postgresql://mill@db/dagster")
    deployment = Deployment(places, mill.project)
    assert "TIDEMILL_DAGSTER_URL" not in deployment.environment(), "specifications on disk hold it"
    assert (tmp_path / "secrets" / "tidemill_dagster_url").read_text() == "postgresql+psycopg2://mill@db/dagster"
    monkeypatch.setenv("TIDEMILL_DAGSTER_URL", "")
    lend_url(places)
    assert os.environ["TIDEMILL_DAGSTER_URL"] == "postgresql+psycopg2://mill@db/dagster"


def test_a_server_out_of_reach_is_one_line_without_its_password_and_nothing_is_written(tmp_path):
    with pytest.raises(Unavailable, match=r"TIDEMILL_DAGSTER_URL: .*127\.0\.0\.1:1.* is it up") as caught:
        prepare_instance(tmp_path, NOWHERE)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "dagster").exists()


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dagster_postgres" else found(name))
    with pytest.raises(UsageError, match=r"dagster_postgres is not installed; .*tidemill\[postgres\]"):
        prepare_instance(tmp_path, NOWHERE)


def test_the_doctor_looks_at_both_databases(tmp_path, postgres):
    places = Places(home=tmp_path, control_url=postgres.database(), dagster_url=postgres.database())
    assert doctor._control(places) == "answers"
    assert doctor._storage(places).startswith("PostgreSQL 1")
    finding = doctor._tried("storage", lambda: doctor._storage(Places(home=tmp_path, dagster_url=NOWHERE)))
    assert not finding.well
    assert "is it up?" in finding.words
    assert doctor._storage(Places(home=tmp_path)) == f"SQLite below {tmp_path / 'dagster'}"
