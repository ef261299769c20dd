"""When a daemon counts as hanging: by the heartbeats of its threads and the ticks of sensors that are on."""

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._daemon.types import DaemonHeartbeat

from orchestration.daemon import HEARTBEATS_S, TICKS, TICKS_S, Signs, signs_of


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def beat(instance, at):
    for name in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(at, name, "daemon", errors=[]))


def sensor(instance, status, at):
    @dg.sensor(job_name="job", name="health")
    def health():
        pass

    @dg.job(name="job")
    def job():
        pass

    repository = dg.Definitions(sensors=[health], jobs=[job]).get_repository_def()
    location = RegisteredCodeLocationOrigin("here")
    where = RemoteRepositoryOrigin(location, repository.name).get_instigator_origin("health")
    state = InstigatorState(where, InstigatorType.SENSOR, status, SensorInstigatorData(last_tick_timestamp=at))
    if instance.get_instigator_state(where.get_id(), where.get_selector().get_id()):
        instance.update_instigator_state(state)
    else:
        instance.add_instigator_state(state)


def test_the_signs_of_a_daemon_are_its_heartbeats_and_where_a_sensor_is_on_its_ticks(instance):
    required = set(instance.get_required_daemon_types())
    assert signs_of(instance) == dict.fromkeys(required, 0.0)
    beat(instance, 5.0)
    assert signs_of(instance) == dict.fromkeys(required, 5.0)
    sensor(instance, InstigatorStatus.DECLARED_IN_CODE, 7.0)
    assert signs_of(instance) == {**dict.fromkeys(required, 5.0), TICKS: 7.0}
    sensor(instance, InstigatorStatus.STOPPED, 7.0)
    assert signs_of(instance) == dict.fromkeys(required, 5.0)


def test_a_daemon_of_which_any_thread_is_silent_hangs():
    signs = Signs()
    for second in range(0, int(HEARTBEATS_S) * 2, 10):
        signs.note({"SENSOR": float(second), "SCHEDULER": 1.0}, second)
        assert signs.well(second) == (second < HEARTBEATS_S)


def test_a_daemon_whose_sensors_do_not_tick_hangs_unless_they_are_off():
    signs = Signs()
    for second in range(0, int(TICKS_S) * 2, 10):
        signs.note({"SENSOR": float(second), TICKS: 1.0}, second)
        assert signs.well(second) == (second < TICKS_S)
    signs.note({"SENSOR": 0.5}, 2 * TICKS_S)
    assert signs.well(2 * TICKS_S)


def test_a_clock_that_jumps_is_not_silence():
    signs = Signs()
    for wall in (0.0, 3_600.0, -3_600.0, 30.0):
        signs.note({"SENSOR": wall}, 1_000.0)
        assert signs.well(1_000.0 + HEARTBEATS_S - 1.0)


def test_storage_that_cannot_be_asked_is_not_silence():
    signs = Signs()
    signs.note({"SENSOR": 1.0}, 0.0)
    signs.note(None, HEARTBEATS_S * 5)
    assert signs.well(HEARTBEATS_S * 5)
    signs.note({"SENSOR": 2.0}, HEARTBEATS_S * 5 + 10)
    assert signs.well(HEARTBEATS_S * 5 + 10)
