"""What services stand on is judged by answers and ticks: a process that is there may hang all the same."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from orchestration import foundation, ticks
from orchestration.deployment import Deployment
from orchestration.health import health_sensor
from orchestration.homes import Status
from orchestration.instance import prepare_instance, turn_on
from orchestration.supervisor import Policy, Supervisor
from orchestration.versions import versions_sensor
from tests.brokers import broker_process
from tests.orchestration.scenes import until
from tests.orchestration.test_cli import tidemill

WEB = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def instance(tmp_path):
    """An instance on disk: one in memory knows of no sensor that is stopped."""
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path / "elsewhere"))) as instance:
        yield instance


def stopped(name="health", kind=InstigatorType.SENSOR):
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="definitions.py"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), name)
    sensor = kind is InstigatorType.SENSOR
    data = SensorInstigatorData(cursor="7") if sensor else ScheduleInstigatorData("0 * * * *")
    return InstigatorState(origin, kind, InstigatorStatus.STOPPED, data)


def note_all(mill, instance):
    for name in ticks.SENSORS:
        ticks.note(mill.places, name, instance)


def test_sensors_that_tick_are_well_and_one_that_does_not_is_named(mill, instance, tick):
    began = time.time()
    note_all(mill, instance)
    assert ticks.faults_of(mill.places, began, time.time()) == []
    tick(health_sensor(mill.places))
    tick(versions_sensor(mill.places))
    path = mill.places.home / "ticks" / "bootstrap.json"
    path.write_text(json.dumps({"at": began - 100, "stopped": []}))
    [fault] = ticks.faults_of(mill.places, began - 100, time.time())
    assert fault.startswith("sensor bootstrap has not ticked for 10")
    assert "--sensors-on" in fault
    path.write_text("{")
    assert "sensor bootstrap has not ticked" in ticks.faults_of(mill.places, began - 100, time.time())[0]


def test_a_stopped_sensor_is_named_at_the_next_tick_of_another_with_what_to_do(mill, instance, tick):
    note_all(mill, instance)
    instance.add_instigator_state(stopped())
    tick(versions_sensor(mill.places))
    [fault] = ticks.faults_of(mill.places, 0.0, time.time())
    assert fault == f"sensor health is stopped: {ticks.TURN_ON}"


def test_a_stopped_schedule_is_named_too(mill, instance):
    instance.add_instigator_state(stopped("closed_day", InstigatorType.SCHEDULE))
    note_all(mill, instance)
    assert ticks.faults_of(mill.places, 0.0, time.time()) == [f"schedule closed_day is stopped: {ticks.TURN_ON}"]


@pytest.mark.parametrize("moved", [-3_600, 3_600])
def test_a_clock_that_was_set_makes_no_sensor_silent(mill, instance, moved):
    note_all(mill, instance)
    now = time.time()
    assert ticks.faults_of(mill.places, now + moved, now) == []


def test_a_daemon_without_any_tick_is_one_line_after_a_minute_and_not_before(mill):
    now = time.time()
    assert ticks.faults_of(mill.places, now - 30, now) == []
    [fault] = ticks.faults_of(mill.places, now - 61, now)
    assert fault.startswith("no sensor has ticked for 61 s")


def test_a_tick_makes_no_home(tmp_path, mill, instance):
    places = mill.places.model_copy(update={"home": tmp_path / "none"})
    ticks.note(places, "health", instance)
    assert not places.home.exists()


def test_what_was_stopped_is_turned_on_when_asked_and_keeps_its_cursor(tmp_path):
    directory = prepare_instance(tmp_path)
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        instance.add_instigator_state(stopped())
    assert turn_on(directory) == ["health"]
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        [state] = instance.all_instigator_state()
    assert (state.status, state.instigator_data.cursor) == (InstigatorStatus.DECLARED_IN_CODE, "7")
    assert turn_on(directory) == []


def running(name):
    return {name: Status(name, "running", pid=os.getpid(), started_at=time.time_ns())}


def frozen(pid):
    os.kill(pid, signal.SIGSTOP)


def test_a_frozen_broker_does_not_answer_and_one_that_goes_on_does(mill, tmp_path, monkeypatch):
    monkeypatch.setattr(foundation, "ANSWERS_S", 60.0)
    with broker_process(tmp_path / "broker") as broker:
        places = mill.places.model_copy(update={"broker_port": broker.port})
        ask = partial(foundation.faults_of, places, running("broker"))
        assert ask() == {}
        frozen(broker.pid)
        try:
            monkeypatch.setattr(foundation, "ANSWERS_S", 3.0)
            assert ask()["broker"].startswith("does not answer within 3 s")
            elsewhere = places.model_copy(update={"kafka_bootstrap_servers": broker.address})
            assert foundation.faults_of(elsewhere, {}).keys() == {"broker"}, "asked wherever it is"
        finally:
            os.kill(broker.pid, signal.SIGCONT)


@pytest.mark.parametrize(("name", "port"), [("exchange", "exchange_port"), ("dagster-webserver", "dagster_port")])
def test_a_frozen_web_server_does_not_answer_and_any_answer_will_do(mill, monkeypatch, tmp_path, name, port):
    monkeypatch.setattr(foundation, "ANSWERS_S", 60.0)
    command = [sys.executable, "-c", WEB]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            places = mill.places.model_copy(update={port: int(server.stdout.readline())})
            assert foundation.faults_of(places, running(name)) == {}, "not found is an answer"
            frozen(server.pid)
            monkeypatch.setattr(foundation, "ANSWERS_S", 1.0)
            assert "does not answer at http://127.0.0.1:" in foundation.faults_of(places, running(name))[name]
            assert foundation.faults_of(places, {name: Status(name, "stopped")}) == {}
        finally:
            server.kill()


@pytest.fixture
def untended(mill, instance):
    """A home whose daemon runs with sensor `health` stopped, and whose trainer was killed."""
    supervisor = Supervisor(Deployment(mill.places, mill.project).supervisor.root, Policy(max_fails=0, grace_s=2.0))
    try:
        for name in ("dagster-daemon", "trainer"):
            supervisor.start(name, ["sleep", "600"])
        supervisor.kill("trainer", signal.SIGKILL)
        supervisor.wait("trainer", {"crashed"}, 60.0)
        instance.add_instigator_state(stopped())
        note_all(mill, instance)
        yield {"TIDEMILL_HOME": str(mill.places.home), "TIDEMILL_CONFIG": str(mill.places.config)}
    finally:
        supervisor.stop_all()


def test_with_health_stopped_a_killed_trainer_is_red_in_status_and_doctor_with_what_to_do(untended):
    said = tidemill("status", "--json", **untended)
    rows = {row["name"]: row for row in json.loads(said.stdout)["services"]}
    assert said.returncode == 1
    assert (rows["trainer"]["phase"], rows["trainer"]["healthy"]) == ("crashed", False)
    assert not rows["dagster-daemon"]["healthy"]
    assert rows["dagster-daemon"]["note"] == f"sensor health is stopped: {ticks.TURN_ON}"
    table = tidemill("status", **untended)
    assert table.returncode == 1
    assert "--sensors-on" in table.stdout
    doctor = tidemill("doctor", **untended)
    assert doctor.returncode == 1
    red = [line for line in doctor.stdout.splitlines() if line.split()[:1] == ["no"]]
    assert any("trainer" in line and "crashed" in line for line in red), doctor.stdout
    assert any("dagster-daemon" in line and "sensor health is stopped" in line for line in red), doctor.stdout


def test_a_frozen_service_is_red_whatever_its_heartbeat_said_last(mill):
    supervisor = Supervisor(Deployment(mill.places, mill.project).supervisor.root, Policy(frozen_s=0.0, grace_s=2.0))
    supervisor.start("trainer", ["sleep", "600"])
    try:
        frozen(supervisor.status("trainer").pid)
        until(lambda: supervisor.status("trainer").phase == "frozen", 60.0)
        env = {"TIDEMILL_HOME": str(mill.places.home), "TIDEMILL_CONFIG": str(mill.places.config)}
        said = tidemill("status", "--json", **env)
        rows = {row["name"]: row for row in json.loads(said.stdout)["services"]}
        assert (rows["trainer"]["phase"], rows["trainer"]["healthy"]) == ("frozen", False)
        assert "stopped" in rows["trainer"]["note"]
    finally:
        supervisor.stop_all()
