"""The health sensor on a real control database, with real processes under the real supervisor."""

import json
import os
import signal
import time

import dagster as dg
import pytest

from assets.services import REASON, key_of
from domain.health import Beat
from domain.services import STREAMS
from orchestration.health import health_sensor
from orchestration.jobs import REDEPLOY
from tests.mills import TOML, TinyServices
from tests.orchestration.ticks import bare_job, first_models, requests, said
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats


@pytest.fixture
def sensor(mill):
    return health_sensor(mill.places)


@pytest.fixture
def services(mill, control):
    first_models(mill, control)
    services = TinyServices(mill)
    yield services
    services.end()


@pytest.fixture
def beat(control, services):
    """Overwrite the heartbeat of a service's present process."""

    def write(name, **changes):
        now = time.time()
        known = {"position": {}, "progress": 1, "progressed_at": now, "lag": 0, "ready": True}
        known |= {"phase": "running", "generation": 0, "beat_at": now, "started_at": now - 600, "detail": {}}
        pid = services.look(name).pid
        assert Heartbeats(control).beat(Beat(service=name, instance="test", pid=pid, **(known | changes)))

    return write


@pytest.fixture
def healthy(services, beat, sensor, tick):
    services.deploy_all()
    deadline = time.monotonic() + 20
    while len({b.service for b in Heartbeats(Control.open(services.control)).beats()}) < len(STREAMS):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for name in STREAMS:
        beat(name)
    assert said(tick(sensor)) == "every service is well"


def test_it_waits_for_the_first_models(sensor, tick):
    assert said(tick(sensor)) == "not every line has a model yet"


def test_what_was_never_deployed_is_deployed(services, sensor, tick):
    [request] = requests(tick(sensor))
    assert request.asset_selection == [key_of(name) for name in STREAMS]
    assert request.tags[REASON].startswith("ingest: is not deployed yet; featurizer: is not deployed yet")


@pytest.mark.usefixtures("healthy")
def test_a_killed_service_is_redeployed_at_once_with_the_reason(services, sensor, tick):
    pid = services.look("trainer").pid
    os.kill(pid, signal.SIGKILL)
    services.supervisor.wait("trainer", {"crash_loop"}, 10.0)
    [request] = requests(tick(sensor))
    assert request.asset_selection == [key_of("trainer")]
    assert request.tags[REASON].startswith(f"trainer: process {pid} ended (signal SIGKILL), seen at ")


@pytest.mark.usefixtures("healthy")
def test_a_silent_service_is_redeployed_at_the_second_look(beat, sensor, tick):
    beat("predictor", beat_at=time.time() - 12)
    assert said(tick(sensor)) == "watching predictor: silent"
    [request] = requests(tick(sensor))
    assert request.asset_selection == [key_of("predictor")]
    assert request.tags[REASON].startswith("predictor: no heartbeat for 12 s")


@pytest.mark.usefixtures("healthy")
def test_a_stuck_service_is_redeployed_though_it_beats(beat, sensor, tick):
    beat("featurizer", progressed_at=time.time() - 60, lag=7)
    assert said(tick(sensor)) == "watching featurizer: stuck"
    [request] = requests(tick(sensor))
    assert request.tags[REASON] == "featurizer: its offset has not moved for 60 s with 7 records waiting"


@pytest.mark.usefixtures("healthy")
def test_a_service_being_deployed_is_not_asked_for_again(services, instance, sensor, tick):
    services.supervisor.stop("trainer")
    run = {"asset_selection": frozenset({key_of("trainer")}), "status": dg.DagsterRunStatus.STARTED}
    instance.create_run_for_job(bare_job(REDEPLOY, key_of("trainer")), **run)
    assert said(tick(sensor)) == "being deployed: trainer"


@pytest.mark.usefixtures("services")
def test_an_unreadable_configuration_is_said_and_nothing_done(mill, sensor, tick):
    mill.places.config.write_text("instrument = 3")
    assert "unknown key" in said(tick(sensor)) or "required" in said(tick(sensor))


def test_the_end_of_a_recording_is_no_fault(mill, control, services, sensor, tick):
    recorded = TOML.replace("[market]", '[market]\nsource = "recorded"\npath = ["x.parquet"]')
    mill.places.config.write_text(recorded)
    services.supervisor.start("ingest", ["true"])
    services.supervisor.wait("ingest", {"done"}, 10.0)
    [request] = requests(tick(sensor))
    assert key_of("ingest") not in request.asset_selection


def test_given_up_it_stays_until_the_service_is_seen_healthy(services, beat, sensor, tick):
    services.deploy_all()
    services.supervisor.stop("trainer")
    for name in STREAMS:
        if name != "trainer":
            beat(name)

    def later(seconds):
        kept = json.loads(tick.cursors["health"])
        memories = kept["memories"]
        memories["trainer"]["redeployed"] = [at - seconds for at in memories["trainer"]["redeployed"]]
        tick.cursors["health"] = json.dumps(kept)

    for _ in range(3):
        assert requests(tick(sensor))
        later(40)
    assert said(tick(sensor)).startswith("trainer: gave up, 3 redeployments did not help, last: is stopped")
    later(7200)
    assert "gave up" in said(tick(sensor)), "sticky: time alone changes nothing"
    services.redeploy("trainer")
    services.supervisor.wait("trainer", {"running"}, 20.0)
    beat("trainer")
    assert said(tick(sensor)) == "every service is well"
