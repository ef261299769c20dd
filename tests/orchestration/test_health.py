"""The health sensor on a real control database, with real processes under the real supervisor."""

import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing

import dagster as dg
import pytest

from assets.services import DETECTED, REASON, REQUESTED, key_of, refusal_tag
from domain.health import Beat
from domain.services import STREAMS
from orchestration.deployment import Deployment
from orchestration.health import health_sensor
from orchestration.jobs import REDEPLOY
from orchestration.settings import read_project
from orchestration.versions import versions_sensor
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
def deployed(services, beat):
    """Every service runs, and its last heartbeat is the test's: the process has sent its own before."""
    services.deploy_all()
    deadline = time.monotonic() + 20
    while len({b.service for b in Heartbeats(Control.open(services.control)).beats()}) < len(STREAMS):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for name in STREAMS:
        beat(name)


@pytest.fixture
def healthy(deployed, sensor, tick):
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
    services.supervisor.wait("trainer", {"crashed"}, 10.0)
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
    assert "instruments" in said(tick(sensor)), "the key that it has not, and the nearest one that there is"


def test_the_end_of_a_recording_is_no_fault(mill, control, services, sensor, tick):
    recorded = TOML.replace("[market]", '[market]\nsource = "recorded"\npath = ["x.parquet"]')
    mill.places.config.write_text(recorded)
    services.supervisor.start("ingest", ["true"])
    services.supervisor.wait("ingest", {"done"}, 10.0)
    [request] = requests(tick(sensor))
    assert key_of("ingest") not in request.asset_selection


@pytest.mark.usefixtures("healthy")
def test_given_up_it_stays_until_the_service_is_seen_healthy(services, beat, sensor, tick):
    services.supervisor.stop("trainer")

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


def checks(result):
    return [(e.asset_key.path[-1], e.passed, e.description) for e in result.asset_events
            if isinstance(e, dg.AssetCheckEvaluation)]  # fmt: skip


@pytest.mark.usefixtures("healthy")
def test_a_changed_setting_is_deployed_where_it_is_read_and_nowhere_else(mill, sensor, tick):
    mill.places.config.write_text(TOML.replace("[market]", "[publish]\nexamples = 7\n[market]"))
    assert said(tick(sensor)).startswith("watching trainer: config changed (")
    [request] = requests(tick(sensor))
    assert request.asset_selection == [key_of("trainer")]
    mill.places.config.write_text(TOML.replace('name = "rls"', 'name = "other"'))
    tick(sensor)
    assert said(tick(sensor)) == "every service is well"


@pytest.mark.usefixtures("healthy")
def test_what_failed_its_rehearsal_is_not_asked_for_again_until_something_changes(mill, instance, sensor, tick):
    mill.places.config.write_text(TOML.replace("[market]", "[publish]\nexamples = 7\n[market]"))
    tick(sensor)
    assert requests(tick(sensor))
    refused = " ".join(Deployment(mill.places, read_project(mill.places)).fingerprint("trainer").values())
    run = instance.create_run_for_job(bare_job(REDEPLOY, key_of("trainer")), status=dg.DagsterRunStatus.FAILURE)
    instance.add_run_tags(run.run_id, {refusal_tag("trainer"): refused})
    red = tick(sensor)
    assert "its rehearsal failed in run" in said(red)
    assert [(name, passed) for name, passed, _ in checks(red)] == [("trainer", False)]
    for _ in range(3):
        assert not tick(sensor).run_requests
        assert not checks(tick(sensor))
    mill.places.config.write_text(TOML.replace("[market]", "[publish]\nexamples = 8\n[market]"))
    assert [(name, passed) for name, passed, _ in checks(tick(sensor))] == [("trainer", True)]
    [request] = requests(tick(sensor))
    assert request.asset_selection == [key_of("trainer")]


@pytest.mark.usefixtures("healthy")
def test_a_request_tells_when_it_was_first_seen_the_look_that_suspected_it_included(beat, sensor, tick):
    before = time.time()
    beat("predictor", beat_at=before - 12)
    tick(sensor)
    first = time.time()
    [request] = requests(tick(sensor))
    assert before <= json.loads(request.tags[DETECTED])["predictor"] <= first + 0.001
    assert first <= float(request.tags[REQUESTED]) + 0.001


@pytest.mark.usefixtures("deployed")
def test_each_service_is_green_once_and_red_once_given_up_and_green_again(services, beat, sensor, tick):
    assert checks(tick(sensor)) == [(name, True, "healthy") for name in STREAMS]
    assert checks(tick(sensor)) == []
    services.supervisor.stop("trainer")
    told = []
    for _ in range(5):
        told += checks(tick(sensor))
        kept = json.loads(tick.cursors["health"])
        kept["memories"]["trainer"]["redeployed"] = [at - 40 for at in kept["memories"]["trainer"]["redeployed"]]
        tick.cursors["health"] = json.dumps(kept)
    [(name, passed, why)] = told
    assert (name, passed) == ("trainer", False)
    assert why == "3 redeployments did not help, last: is stopped, and should run"
    services.redeploy("trainer")
    services.supervisor.wait("trainer", {"running"}, 20.0)
    beat("trainer")
    assert checks(tick(sensor)) == [("trainer", True, "healthy")]


@pytest.mark.usefixtures("healthy")
def test_an_overdue_version_is_a_reason_at_the_second_look(beat, sensor, tick):
    beat("trainer", detail={"due_at": time.time() - 60})
    assert said(tick(sensor)) == "watching trainer: overdue"
    [request] = requests(tick(sensor))
    assert re.fullmatch(r"trainer: a version is due for \d+ s while examples arrive", request.tags[REASON])


@pytest.mark.usefixtures("healthy")
def test_a_service_is_observed_once_an_hour_with_numbers(beat, sensor, tick):
    def later(seconds):
        kept = json.loads(tick.cursors["health"])
        for life in kept["lives"].values():
            life["marked_at"] -= seconds
            life["told_at"] -= seconds
        tick.cursors["health"] = json.dumps(kept)

    def observed():
        return [e for e in tick(sensor).asset_events if isinstance(e, dg.AssetObservation)]

    later(100)
    beat("trainer", progress=101, lag=3)
    told = {e.asset_key.path[-1]: {k: v.value for k, v in e.metadata.items()} for e in observed()}
    assert set(told) == set(STREAMS)
    assert told["trainer"]["progress_per_s"] == pytest.approx(1.0, rel=0.2)
    assert told["trainer"]["lag"] == 3
    assert told["trainer"]["memory_mb"] > 1
    assert (told["trainer"]["restarts"], told["trainer"]["redeployments"]) == (0, 0)
    later(3000)
    assert observed() == []
    later(700)
    assert len(observed()) == len(STREAMS)


def torn(path):
    path.write_bytes(path.read_bytes()[:5000])


def rubbish(path):
    path.write_bytes(b"no database " * 1000)


def empty_pages(path):
    path.write_bytes(path.read_bytes()[:4096] + bytes(path.stat().st_size - 4096))


def missing(path):
    path.unlink()


@pytest.mark.parametrize("damage", [torn, rubbish, empty_pages, missing])
@pytest.mark.parametrize("make", [health_sensor, versions_sensor])
def test_without_a_whole_database_a_tick_says_why_and_does_nothing(damage, make, mill, control, tick):
    first_models(mill, control)
    control.close()
    path = mill.places.home / "control.sqlite"
    for left in path.parent.glob("control.sqlite-*"):
        left.unlink()
    damage(path)
    result = tick(make(mill.places))
    assert "control database" in said(result) or said(result) == "not every line has a model yet"
    assert not requests(result)


@pytest.mark.parametrize("make", [health_sensor, versions_sensor])
def test_a_locked_database_is_not_waited_for(make, mill, control, tick):
    first_models(mill, control)
    control.close()
    url = f"file:{mill.places.home / 'control.sqlite'}"
    with closing(sqlite3.connect(url, uri=True, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        result = tick(make(mill.places))
        assert "is locked by process" in said(result)
