"""Deployments as assets: materializing one starts a real process and waits for its own word that it is ready."""

from contextlib import ExitStack

import dagster as dg
import pytest

from assets.services import REASON, key_of, services_asset
from domain.services import STREAMS
from tests.mills import TinyServices, materialized, mill_at


@pytest.fixture
def deploy(tmp_path):
    """Materialize services; return the run, the instance and the deployer."""
    mill, deployers = mill_at(tmp_path), []

    def run(*names, crashing=(), reason=""):
        deployer = TinyServices(mill, frozenset(crashing))
        deployers.append(deployer)
        instance = instances.enter_context(dg.DagsterInstance.ephemeral())
        result = dg.materialize(
            [services_asset()],
            instance=instance,
            resources={"mill": mill, "deployer": deployer},
            selection=[key_of(name) for name in names or STREAMS],
            tags={REASON: reason} if reason else {},
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
    assert "trainer ended: crash_loop, exit code 1: the disk is full" in failure.user_failure_data.description
    assert "the disk is full" in failure.user_failure_data.metadata["trainer"].value
    assert materialized(instance, "services/trainer") == []
    assert len(materialized(instance, "services/predictor")) == 1
