"""Deployments as assets: materializing one starts a real process and waits for its own word that it is ready."""

import json
import time
from contextlib import ExitStack

import dagster as dg
import pytest

from assets.services import (
    DETECTED,
    REASON,
    REQUESTED,
    TENDED,
    key_of,
    refusal_tag,
    services_asset,
    services_checks,
)
from domain.services import STREAMS
from tests.mills import TinyServices, materialized, mill_at


@pytest.fixture
def deploy(tmp_path):
    """Materialize services; return the run, the instance and the deployer."""
    mill, deployers = mill_at(tmp_path), []

    def run(*names, crashing=(), reason="", rehearsal="", tags=None):
        deployer = TinyServices(mill, frozenset(crashing))
        deployer.rehearsal = rehearsal
        deployers.append(deployer)
        instance = instances.enter_context(dg.DagsterInstance.ephemeral())
        result = dg.materialize(
            [services_asset()],
            instance=instance,
            resources={"mill": mill, "deployer": deployer},
            selection=[key_of(name) for name in names or STREAMS],
            tags=({REASON: reason} if reason else {}) | (tags or {}),
            raise_on_error=False,
        )
        return result, instance, deployer

    with ExitStack() as instances:
        yield run
    for deployer in deployers:
        deployer.end()


def test_materializing_waits_until_every_process_says_that_it_is_ready(deploy):
    result, instance, deployer = deploy(reason="ingest: is not deployed yet; trainer: process 7 ended")
    assert result.success
    for name in STREAMS:
        [event] = materialized(instance, f"services/{name}")
        status = deployer.supervisor.status(name)
        assert status.phase == "running"
        said = {key: value.value for key, value in event.metadata.items()}
        assert (said["pid"], said["generation"], said["restarts"]) == (status.pid, 1, 0)
        assert said["config"] == deployer.fingerprint(name)["config"]
        assert said["code"] == deployer.fingerprint(name)["code"]
        assert said["seconds_to_healthy"] > 0
    assert materialized(instance, "services/trainer")[0].metadata["reason"].value == "process 7 ended"


def test_redeploying_one_replaces_its_process_and_touches_no_other(deploy):
    _, _, deployer = deploy()
    before = {name: deployer.supervisor.status(name).pid for name in STREAMS}
    result, instance, deployer = deploy("trainer")
    assert result.success
    after = {name: deployer.supervisor.status(name).pid for name in STREAMS}
    assert [name for name in STREAMS if before[name] != after[name]] == ["trainer"]
    [event] = materialized(instance, "services/trainer")
    assert event.metadata["generation"].value == 2
    assert event.metadata["reason"].value == "asked for by hand"
    assert materialized(instance, "services/ingest") == []


def test_a_service_that_ends_makes_the_run_red_with_its_last_words_and_spares_the_others(deploy):
    result, instance, _ = deploy(crashing=["trainer"])
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).event_specific_data
    assert "trainer ended: crashed, exit code 1: the disk is full" in failure.user_failure_data.description
    assert "the disk is full" in failure.user_failure_data.metadata["trainer"].value
    assert materialized(instance, "services/trainer") == []
    assert len(materialized(instance, "services/predictor")) == 1


def pids(deployer):
    return {name: deployer.supervisor.status(name).pid for name in STREAMS}


def test_what_runs_is_rehearsed_and_replaced_one_by_one_in_the_order_of_the_flow(deploy):
    _, _, deployer = deploy()
    assert deployer.rehearsed == [], "what does not run has nothing to lose"
    result, _, deployer = deploy("lander", "trainer", "featurizer")
    assert result.success
    assert deployer.rehearsed == ["featurizer", "trainer", "lander"]
    started = {name: deployer.supervisor.status(name).started_at for name in deployer.rehearsed}
    assert sorted(started, key=started.get) == deployer.rehearsed


def test_a_failed_rehearsal_leaves_the_process_alone_and_the_run_red_with_its_last_lines(deploy):
    _, _, deployer = deploy()
    before = pids(deployer)
    result, instance, deployer = deploy("featurizer", "trainer", rehearsal="Traceback\nNameError: name 'x' is unknown")
    assert not result.success
    assert pids(deployer) == before
    assert deployer.rehearsed == ["featurizer"], "the trainer is not touched once the featurizer has failed"
    failure = next(event for event in result.all_events if event.is_step_failure).event_specific_data.user_failure_data
    assert "featurizer goes on as it is: today's code or configuration failed the rehearsal: NameError" in (
        failure.description
    )
    assert "trainer was not touched" in failure.description
    assert "Traceback" in failure.metadata["featurizer"].value
    tags = instance.get_run_by_id(result.run_id).tags
    assert tags[refusal_tag("featurizer")] == " ".join(deployer.fingerprint("featurizer").values())
    assert refusal_tag("trainer") not in tags


def test_one_that_is_down_starts_without_a_rehearsal_and_before_any_that_runs_is_touched(deploy):
    _, _, deployer = deploy()
    deployer.supervisor.stop("lander")
    before = pids(deployer)
    result, instance, deployer = deploy("ingest", "lander", rehearsal="broken")
    assert not result.success
    assert deployer.supervisor.status("lander").phase == "running"
    assert pids(deployer)["ingest"] == before["ingest"]
    assert len(materialized(instance, "services/lander")) == 1


def test_when_the_one_before_does_not_come_back_the_next_is_not_touched(deploy):
    _, _, deployer = deploy()
    before = pids(deployer)
    result, _, deployer = deploy("trainer", "predictor", crashing=["trainer"])
    assert not result.success
    assert pids(deployer)["predictor"] == before["predictor"]


def test_a_redeployment_says_how_long_each_stage_from_detection_to_health_took(deploy):
    detected = time.time() - 7
    tags = {DETECTED: json.dumps({"trainer": detected}), REQUESTED: str(detected + 2)}
    _, instance, _ = deploy("trainer", "lander", tags=tags)
    said = {key: value.value for key, value in materialized(instance, "services/trainer")[0].metadata.items()}
    assert said["detected_at"] == detected
    assert said["seconds_detection_to_request"] == 2.0
    assert 7 <= said["seconds_detection_to_start"] <= said["seconds_detection_to_healthy"]
    assert said["uptime_s"] == pytest.approx(
        said["seconds_detection_to_healthy"] - said["seconds_detection_to_start"], abs=0.02
    )
    assert "detected_at" not in materialized(instance, "services/lander")[0].metadata


def test_the_check_looks_at_each_service_now(deploy):
    _, instance, deployer = deploy()
    deployer.supervisor.stop("trainer")
    mill = deployer.mill
    keys = [dg.AssetCheckKey(key_of(name), TENDED) for name in ("trainer", "lander")]
    defs = dg.Definitions(
        assets=[services_asset()], asset_checks=[services_checks()], resources={"mill": mill, "deployer": deployer},
        jobs=[dg.define_asset_job("look", dg.AssetSelection.checks(*keys))],
    )  # fmt: skip
    result = defs.resolve_job_def("look").execute_in_process(instance=instance)
    found = {e.asset_key.path[-1]: (e.passed, e.description) for e in result.get_asset_check_evaluations()}
    assert found["lander"] == (True, "healthy")
    assert found["trainer"][0] is False
    assert "stopped" in found["trainer"][1]
