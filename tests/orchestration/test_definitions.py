"""What Dagster loads: complete, explained, light, and started from an instance of its own."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from domain.services import SERVICES
from orchestration.definitions import definitions
from orchestration.instance import prepare_instance
from tests.mills import ROOT, mill_at
from tests.orchestration.ticks import first_models
from warehouse.control import Control


@pytest.fixture
def defs(tmp_path):
    mill = mill_at(tmp_path)
    return definitions(mill.places, mill.project)


def test_definitions_are_loadable_and_explain_every_asset(defs):
    dg.Definitions.validate_loadable(defs)
    specs = list(defs.resolve_all_asset_specs())
    keys = {spec.key.to_user_string(): spec for spec in specs}
    assert set(keys) == {
        *("bars", "features", "examples", "initial_model", "predictions", "prediction_performance"),
        *(f"model_versions/simulated_{name}_USD{part}" for name in ("BTC", "ETH") for part in ("", "_challenger")),
        *(f"services/{name}" for name in SERVICES),
    }
    assert {spec.group_name for spec in specs} == {"history", "models", "services", "model_versions"}
    for spec in specs:
        assert len(spec.description or "") > 80, spec.key
        assert spec.kinds, spec.key


def test_the_graph_reads_as_the_data_flows(defs):
    graph = defs.resolve_asset_graph()

    def parents(key):
        return {parent.to_user_string() for parent in graph.get(dg.AssetKey(key.split("/"))).parent_keys}

    assert parents("features") == {"bars"}
    assert parents("examples") == {"bars", "features"}
    assert parents("initial_model") == {"features", "examples"}
    assert parents("services/ingest") == {"initial_model"}
    assert parents("services/trainer") == {"initial_model", "services/featurizer"}
    assert parents("model_versions/simulated_BTC_USD") == {"initial_model", "services/trainer"}
    assert parents("model_versions/simulated_BTC_USD_challenger") == {"initial_model", "services/challenger"}
    assert parents("predictions") == {"services/predictor"}
    assert parents("prediction_performance") == {"predictions", "examples"}


def test_jobs_sensors_and_schedules_are_there_and_on(defs):
    repository = defs.get_repository_def()
    asked_for = {"refill", "retrain", "promote", "rollback", "rebuild_version", "unlearn", "maintenance", "evaluate"}
    assert {"bootstrap", "backfill", "redeploy", "train"} | asked_for <= set(repository.job_names)
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert set(sensors) == {"bootstrap", "health", "versions", "missing_days"}
    assert {sensor.default_status for sensor in sensors.values()} == {dg.DefaultSensorStatus.RUNNING}
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert set(schedules) == {"closed_day", "hourly", "maintenance"}
    assert {schedule.default_status for schedule in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}


def checks_of(defs, job):
    layer = defs.resolve_job_def(job).asset_layer
    return {f"{key.asset_key.to_user_string()}/{key.name}" for data in layer.data for key in data.assets_def.check_keys}


def test_making_history_and_models_runs_the_checks_that_stop_it_and_no_others(defs):
    assert checks_of(defs, "backfill") == {"bars/gapless", "examples/no_look_ahead"}
    assert checks_of(defs, "train") == {"initial_model/finite"}
    assert checks_of(defs, "bootstrap") == checks_of(defs, "backfill") | checks_of(defs, "train")
    assert checks_of(defs, "refill") == checks_of(defs, "backfill") | {
        f"{table}/complete" for table in ("bars", "features", "examples")
    }
    assert checks_of(defs, "redeploy") == set()


def test_an_evaluation_runs_every_check_and_every_check_explains_itself(defs):
    specs = [spec for check in defs.asset_checks for spec in check.check_specs]
    assert checks_of(defs, "evaluate") == {f"{spec.asset_key.to_user_string()}/{spec.name}" for spec in specs}
    assert len(specs) == 9 + 2 + 2 * 2 + 2 + len(SERVICES)
    assert {spec.name for spec in specs if spec.blocking} == {"gapless", "no_look_ahead", "finite"}
    assert all(len(spec.description) > 60 for spec in specs)


def test_loading_and_ticking_load_nothing_heavy(tmp_path):
    """Every tick and every page of the UI waits for this import."""
    mill = mill_at(tmp_path)
    with Control.open(mill.places.control) as control:
        first_models(mill, control)
    code = """
import sys
import dagster as dg
from orchestration.definitions import defs
with dg.DagsterInstance.ephemeral() as instance:
    for sensor in defs.get_repository_def().sensor_defs:
        result = sensor(dg.build_sensor_context(instance=instance))
        assert isinstance(result, dg.SensorResult), result
        print(sensor.name, "asks" if result.run_requests else "looks", len(result.asset_events))
heavy = {"river", "numba", "duckdb", "confluent_kafka", "pyarrow", "matplotlib", "pandas", "scipy"}
print(sorted(heavy & set(sys.modules)))
"""
    environment = os.environ | {"TIDEMILL_HOME": str(tmp_path), "TIDEMILL_CONFIG": str(tmp_path / "tidemill.toml")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *looks, heavy = done.stdout.splitlines()
    assert sorted(looks) == ["bootstrap looks 0", "health asks 0", "missing_days looks 0", "versions looks 2"]
    assert heavy == "[]"


def test_a_damaged_control_database_does_not_keep_the_definitions_from_loading(tmp_path):
    mill = mill_at(tmp_path)
    (tmp_path / "control.sqlite").write_bytes(b"no database " * 1000)
    dg.Definitions.validate_loadable(definitions(mill.places, mill.project))


def test_the_instance_is_prepared_once_and_brought_up_to_date(tmp_path):
    home = prepare_instance(tmp_path)
    settings = home / "dagster.yaml"
    assert home == tmp_path / "dagster"
    before = settings.stat().st_mtime_ns
    prepare_instance(tmp_path)
    assert settings.stat().st_mtime_ns == before
    settings.write_text("telemetry: {enabled: true}\n")
    prepare_instance(tmp_path)
    assert "enabled: false" in settings.read_text()


def test_dagster_accepts_the_instance_and_tells_nobody(tmp_path):
    home = prepare_instance(tmp_path)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        assert instance.get_settings("sensors")["use_threads"]
        assert str(home) in instance.storage_directory()
