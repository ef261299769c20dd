"""Sensors on a real control database, with real processes under the real supervisor."""

import json
import os
import signal
import time

import dagster as dg
import pytest

from assets.models import version_key
from assets.partitions import history_of
from assets.services import REASON, key_of
from domain.health import Beat
from orchestration.deployment import STREAMS
from orchestration.jobs import BOOTSTRAP, REDEPLOY
from orchestration.runs import KILLED
from orchestration.sensors import ATTEMPTS, SAMPLE_S, bootstrap_sensor, health_sensor, versions_sensor
from tests.mills import TOML, TinyServices, mill_at
from warehouse.control import Control, versions
from warehouse.heartbeats import Heartbeats
from warehouse.leases import Leases
from warehouse.registry import Registry, VersionInfo


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def mill(tmp_path):
    return mill_at(tmp_path)


@pytest.fixture
def control(mill):
    with Control.open(mill.places.control) as control:
        yield control


@pytest.fixture
def tick(instance):
    """Evaluate a sensor; it goes on from the cursor that it returned last."""
    cursors = {}

    def evaluate(sensor):
        context = dg.build_sensor_context(instance=instance, cursor=cursors.get(sensor.name))
        result = sensor(context)
        if isinstance(result, dg.SensorResult) and result.cursor is not None:
            cursors[sensor.name] = result.cursor
        return result

    evaluate.cursors = cursors
    return evaluate


def said(result):
    skip = result if isinstance(result, dg.SkipReason) else result.skip_reason
    return skip.skip_message if isinstance(skip, dg.SkipReason) else skip or ""


def requests(result):
    return result.run_requests or [] if isinstance(result, dg.SensorResult) else []


def publish(mill, control, line, n, kind="update"):
    """Publish a version; what its artifact holds is no business of a sensor."""
    lease = Leases(control).acquire(line, "test", 60.0)
    scores = {"volatility": {"rls": {"n": n, "loss": 1.0, "recent_loss": 1.0}, "mean": {"n": n, "loss": 2.0}}}
    info = VersionInfo(
        kind=kind,
        watermark=n * 10**9,
        n_learned=n,
        digest=f"{line}/{n}",
        metrics=scores,
        champions={"volatility": "rls"},
    )
    return Registry(control, mill.places.models).publish(line, b"model", info, lease)


def first_models(mill, control):
    for line in mill.project.instruments:
        publish(mill, control, line, 1, "initial")


def age(control, number, line, seconds):
    """Make a version look as if it was published so long after the epoch."""
    same = (versions.c.number == number) & (versions.c.line == line)
    control.write(lambda c: c.execute(versions.update().where(same).values(created_at=seconds)))


class TestBootstrap:
    @pytest.fixture
    def sensor(self, mill):
        return bootstrap_sensor(mill.places, history_of(mill.project))

    def test_without_any_database_it_asks_for_one_run_over_all_of_history(self, mill, sensor, tick):
        [request] = requests(tick(sensor))
        assert request.tags["dagster/asset_partition_range_start"] == "2025-01-01"
        assert request.tags["dagster/asset_partition_range_end"] == "2025-01-02"
        assert request.tags[REASON] == "no model yet: simulated:BTC-USD, simulated:ETH-USD"
        assert not (mill.places.home / "control.sqlite").exists(), "a look creates nothing"

    def test_it_is_asked_for_while_any_line_lacks_a_model_and_never_after(self, mill, control, sensor, tick):
        publish(mill, control, "simulated:BTC-USD", 1, "initial")
        [request] = requests(tick(sensor))
        assert request.tags[REASON] == "no model yet: simulated:ETH-USD"
        publish(mill, control, "simulated:ETH-USD", 1, "initial")
        assert said(tick(sensor)) == "every line has a model"

    def test_one_under_way_is_waited_for(self, mill, instance, sensor, tick):
        instance.create_run_for_job(bare_job(BOOTSTRAP), status=dg.DagsterRunStatus.STARTED)
        assert said(tick(sensor)) == "a first training is under way"

    def test_after_one_whose_worker_was_killed_it_does_not_pause(self, instance, sensor, tick):
        """As by stopping everything in the middle of it, and starting again."""
        assert requests(tick(sensor))
        run = instance.create_run_for_job(bare_job(BOOTSTRAP), status=dg.DagsterRunStatus.FAILURE)
        assert not requests(tick(sensor))
        instance.add_run_tags(run.run_id, {KILLED: "7"})
        assert requests(tick(sensor))

    def test_after_a_failure_it_pauses_and_after_three_it_waits_for_a_person(self, mill, control, sensor, tick):
        assert requests(tick(sensor))
        assert said(tick(sensor)).startswith("the last attempt failed; the next is in")
        for attempt in range(2, ATTEMPTS + 1):
            tick.cursors["bootstrap"] = json.dumps([at - 61 for at in json.loads(tick.cursors["bootstrap"])])
            assert requests(tick(sensor)), attempt
        tick.cursors["bootstrap"] = json.dumps([at - 3600 for at in json.loads(tick.cursors["bootstrap"])])
        assert said(tick(sensor)).startswith("3 attempts failed")
        first_models(mill, control)
        assert said(tick(sensor)) == "every line has a model"
        assert tick.cursors["bootstrap"] == ""


class TestHealth:
    @pytest.fixture
    def sensor(self, mill):
        return health_sensor(mill.places)

    @pytest.fixture
    def services(self, mill, control):
        first_models(mill, control)
        services = TinyServices(mill)
        yield services
        services.end()

    @pytest.fixture
    def beat(self, control, services):
        """Overwrite the heartbeat of a service's present process."""

        def write(name, **changes):
            now = time.time()
            known = {"position": {}, "progress": 1, "progressed_at": now, "lag": 0, "ready": True}
            known |= {"phase": "running", "generation": 0, "beat_at": now, "started_at": now - 600, "detail": {}}
            pid = services.look(name).pid
            assert Heartbeats(control).beat(Beat(service=name, instance="test", pid=pid, **(known | changes)))

        return write

    @pytest.fixture
    def healthy(self, services, beat, sensor, tick):
        services.deploy_all()
        deadline = time.monotonic() + 20
        while len({b.service for b in Heartbeats(Control.open(services.control)).beats()}) < len(STREAMS):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for name in STREAMS:
            beat(name)
        assert said(tick(sensor)) == "every service is well"

    def test_it_waits_for_the_first_models(self, sensor, tick):
        assert said(tick(sensor)) == "not every line has a model yet"

    def test_what_was_never_deployed_is_deployed(self, services, sensor, tick):
        [request] = requests(tick(sensor))
        assert request.asset_selection == [key_of(name) for name in STREAMS]
        assert request.tags[REASON].startswith("ingest: is not deployed yet; featurizer: is not deployed yet")

    @pytest.mark.usefixtures("healthy")
    def test_a_killed_service_is_redeployed_at_once_with_the_reason(self, services, sensor, tick):
        pid = services.look("trainer").pid
        os.kill(pid, signal.SIGKILL)
        services.supervisor.wait("trainer", {"crash_loop"}, 10.0)
        [request] = requests(tick(sensor))
        assert request.asset_selection == [key_of("trainer")]
        assert request.tags[REASON].startswith(f"trainer: process {pid} ended (signal SIGKILL), seen at ")

    @pytest.mark.usefixtures("healthy")
    def test_a_silent_service_is_redeployed_at_the_second_look(self, beat, sensor, tick):
        beat("predictor", beat_at=time.time() - 12)
        assert said(tick(sensor)) == "watching predictor: silent"
        [request] = requests(tick(sensor))
        assert request.asset_selection == [key_of("predictor")]
        assert request.tags[REASON].startswith("predictor: no heartbeat for 12 s")

    @pytest.mark.usefixtures("healthy")
    def test_a_stuck_service_is_redeployed_though_it_beats(self, beat, sensor, tick):
        beat("featurizer", progressed_at=time.time() - 60, lag=7)
        assert said(tick(sensor)) == "watching featurizer: stuck"
        [request] = requests(tick(sensor))
        assert request.tags[REASON] == "featurizer: no progress for 60 s with 7 records waiting"

    @pytest.mark.usefixtures("healthy")
    def test_a_service_being_deployed_is_not_asked_for_again(self, services, instance, sensor, tick):
        services.supervisor.stop("trainer")
        run = {"asset_selection": frozenset({key_of("trainer")}), "status": dg.DagsterRunStatus.STARTED}
        instance.create_run_for_job(bare_job(REDEPLOY, key_of("trainer")), **run)
        assert said(tick(sensor)) == "being deployed: trainer"

    @pytest.mark.usefixtures("healthy")
    def test_a_changed_configuration_is_deployed_everywhere(self, mill, sensor, tick):
        mill.places.config.write_text(TOML.replace("interval", "interval") + "forgetting = 0.999\n")
        assert said(tick(sensor)).startswith("watching ingest: config changed")
        [request] = requests(tick(sensor))
        assert len(request.asset_selection) == len(STREAMS)
        assert "lander: config changed (" in request.tags[REASON]

    @pytest.mark.usefixtures("services")
    def test_an_unreadable_configuration_is_said_and_nothing_done(self, mill, sensor, tick):
        mill.places.config.write_text("instrument = 3")
        assert "unknown key" in said(tick(sensor)) or "required" in said(tick(sensor))

    def test_the_end_of_a_recording_is_no_fault(self, mill, control, services, sensor, tick):
        recorded = TOML.replace("[market]", '[market]\nsource = "recorded"\npath = ["x.parquet"]')
        mill.places.config.write_text(recorded)
        services.supervisor.start("ingest", ["true"])
        services.supervisor.wait("ingest", {"done"}, 10.0)
        [request] = requests(tick(sensor))
        assert key_of("ingest") not in request.asset_selection

    def test_given_up_it_stays_until_the_service_is_seen_healthy(self, services, beat, sensor, tick):
        services.deploy_all()
        services.supervisor.stop("trainer")
        for name in STREAMS:
            if name != "trainer":
                beat(name)

        def later(seconds):
            memories = json.loads(tick.cursors["health"])
            memories["trainer"]["redeployed"] = [at - seconds for at in memories["trainer"]["redeployed"]]
            tick.cursors["health"] = json.dumps(memories)

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


class TestVersions:
    @pytest.fixture
    def sensor(self, mill):
        return versions_sensor(mill.places)

    def test_without_a_database_it_waits(self, sensor, tick):
        assert said(tick(sensor)) == "there is no control database yet"

    def test_first_versions_are_recorded_once_each(self, mill, control, sensor, tick):
        first_models(mill, control)
        events = tick(sensor).asset_events
        assert [event.asset_key for event in events] == [version_key(line) for line in mill.project.instruments]
        assert events[0].metadata["skill_volatility_vs_mean"].value == 0.5
        assert events[0].tags == {"dagster/data_version": "simulated:BTC-USD/1"}
        assert not tick(sensor).asset_events

    def test_updates_are_recorded_once_a_minute_and_line(self, mill, control, sensor, tick):
        line = "simulated:BTC-USD"
        publish(mill, control, line, 1, "initial")
        for n in range(2, 302):
            publish(mill, control, line, n)
        for n in range(1, 302):
            age(control, n, line, 1_000.0 + n)
        recorded = []
        for _ in range(3):
            recorded += [event.metadata["version"].value for event in tick(sensor).asset_events or []]
        assert recorded == [1, *range(1 + int(SAMPLE_S), 302, int(SAMPLE_S))]

    def test_with_its_cursor_none_is_repeated_or_forgotten_however_ticks_and_versions_interleave(
        self, mill, control, sensor, tick
    ):
        line, recorded = "simulated:BTC-USD", []
        for n in range(1, 8):
            publish(mill, control, line, n, "initial" if n == 1 else "update")
            age(control, n, line, 1_000.0 + SAMPLE_S * n)
            if n % 3 == 0:
                recorded += [event.metadata["version"].value for event in tick(sensor).asset_events or []]
        recorded += [event.metadata["version"].value for event in tick(sensor).asset_events or []]
        assert recorded == [1, 2, 3, 4, 5, 6, 7]

    def test_a_refused_version_becomes_one_observation_of_its_line(self, mill, control, sensor, tick):
        line, other = mill.project.instruments
        first_models(mill, control)
        publish(mill, control, line, 2)
        tick(sensor)
        refusals = Registry(control, mill.places.models).refusals
        refusals.note(line, {1: "signed with another key", 2: "torn"}, "trainer")
        refusals.note(other, {1: "flipped"}, "predictor")
        one, two = tick(sensor).asset_events
        assert isinstance(one, dg.AssetObservation)
        assert (one.asset_key, two.asset_key) == (version_key(line), version_key(other))
        assert one.description == f"refused versions 1, 2 of {line}"
        assert [row.data["reason"] for row in one.metadata["refused"].records] == ["signed with another key", "torn"]
        assert (two.metadata["reason"].value, two.metadata["refused_versions"].value) == ("flipped", 1)
        assert two.metadata["refused"].records[0].data["by"] == "predictor"
        refusals.note(line, {2: "torn"}, "predictor")
        assert not tick(sensor).asset_events, "each is said once"


def bare_job(name, *keys):
    """Return a job of this name, for a run that is only looked at."""

    @dg.multi_asset(specs=[dg.AssetSpec(key) for key in keys or [dg.AssetKey("nothing")]], can_subset=True)
    def nothing():
        return None

    job = dg.define_asset_job(name, selection="*")
    return dg.Definitions(assets=[nothing], jobs=[job]).resolve_job_def(name)
