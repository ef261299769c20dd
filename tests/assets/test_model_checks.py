"""A first model that does not load, or holds what is not a number, carries nothing; luck is not called skill."""

import dataclasses

import dagster as dg
import numpy as np
import pytest

from assets.card import Card
from assets.model_checks import beats_baseline, finite, finite_weights, skill_of, skillful, unfinite
from domain.baselines import BASELINES
from orchestration.definitions import definitions
from tests.mills import TinyServices, materialized, mill_at
from warehouse.registry import Registry

BTC = "simulated:BTC-USD"
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def seen(check, mill):
    job = dg.Definitions(asset_checks=[check], resources={"mill": mill}).resolve_implicit_global_asset_job_def()
    [evaluation] = job.execute_in_process(raise_on_error=False).get_asset_check_evaluations()
    return evaluation


def test_versions_that_load_and_are_finite_pass(served):
    mill, _ = served
    said = seen(finite(), mill)
    assert said.passed
    assert said.metadata[f"numbers {BTC}"].value > 1_000
    said = seen(finite_weights(BTC), mill)
    assert said.passed
    assert (said.metadata[f"version {BTC}"].value, f"version {BTC}".replace("BTC", "ETH") in said.metadata) == (
        1,
        False,
    )


def test_without_a_version_neither_passes(tmp_path):
    mill = mill_at(tmp_path)
    for check in (finite(), finite_weights(BTC)):
        said = seen(check, mill)
        assert (said.passed, said.severity) == (False, WARN)
        assert said.description == f"not judged: {BTC} has no version yet; run job train"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_weight_that_is_not_a_number_is_found_among_all(served, value):
    _, lines = served
    arrays = lines[BTC].arrays()
    line = type(lines[BTC])(BTC, lines[BTC].fleet)
    for name in [name for name in arrays if name.startswith(("model/", "frozen/", "guard/"))]:
        poked = {key: np.array(array) for key, array in arrays.items()}
        poked[name].flat[-1] = value
        line.restore(poked)
        assert unfinite(line)[1] == [name]
    line.restore(arrays)
    assert unfinite(line)[1] == []


def test_a_first_version_that_does_not_load_stops_the_deployment_on_it(tmp_path, filled, instance, monkeypatch):
    mill, _ = filled
    monkeypatch.setattr(
        Registry, "seal", lambda _self, _checkpoint: b"not a version"
    )  # published as it is, and found out when it is opened
    mill = type(mill)(mill.project, mill.places.model_copy(update={"control_url": f"sqlite:///{tmp_path / 'control'}"}))
    deployer = TinyServices(mill)
    defs = definitions(mill.places, mill.project)
    job = dg.Definitions(
        assets=defs.assets, asset_checks=defs.asset_checks, resources={"mill": mill, "deployer": deployer}
    ).resolve_implicit_global_asset_job_def()
    wanted = [dg.AssetKey("initial_model"), dg.AssetKey(["services", "ingest"])]
    run = job.execute_in_process(instance=instance, asset_selection=wanted, raise_on_error=False)
    said = {one.check_name: one for one in run.get_asset_check_evaluations()}
    assert (said["finite"].passed, said["finite"].severity) == (False, ERROR)
    assert materialized(instance, "initial_model")
    assert materialized(instance, "services/ingest") == []
    assert deployer.supervisor.spec("ingest") is None


def card(model, baseline, n=2_000, seed=1):
    """A card whose losses are drawn: those of the model, and of all baselines."""
    rng = np.random.default_rng(seed)
    losses = np.abs(rng.normal(size=(n, 3))) * model
    yardsticks = {name: np.abs(rng.normal(size=(n, 3))) * baseline for name in BASELINES}
    empty = np.zeros((n, 3))
    return Card(BTC, 0, n, 5, empty, empty, losses, yardsticks, np.ones(n, np.int64), np.ones(n), n, n)


def test_skill_that_is_shown_is_no_fault():
    faults, found = skill_of(card(1.0, 1.5))
    assert faults == []
    assert 0.2 < found["low_volatility"] < found["skill_volatility"] < found["high_volatility"] < 0.5


def test_skill_in_volatility_that_may_be_luck_is_a_fault_and_elsewhere_is_none():
    faults, found = skill_of(card(1.0, 1.0))
    assert found["low_volatility"] < 0 < found["high_volatility"] + 0.1
    assert len(faults) == 1
    assert faults[0].startswith("skill in volatility is not shown: ")


def test_a_model_that_is_worse_for_sure_is_a_fault_in_every_target():
    faults, _ = skill_of(card(1.5, 1.0))
    assert [fault.split(":")[0] for fault in faults] == [
        "worse than a simple forecast in price_change",
        "worse than a simple forecast in direction",
        "skill in volatility is not shown",
    ]


def test_too_few_outcomes_are_no_proof_of_anything():
    few = card(1.0, 2.0)
    nothing = dataclasses.replace(few, losses=np.where(np.arange(2_000)[:, None] < 10, few.losses, np.nan))
    assert skill_of(nothing) == ([], {})


def test_served_skill_is_that_of_the_card(served):
    mill, _ = served
    said = seen(skillful(BTC), mill)
    assert said.severity == WARN
    assert said.passed == (said.metadata["low_volatility"].value > 0)
    assert said.metadata["low_volatility"].value < said.metadata["skill_volatility"].value


def test_a_first_training_is_judged_for_every_line(served):
    mill, _ = served
    said = seen(beats_baseline(), mill)
    for name in mill.project.instruments:
        assert np.isfinite(said.metadata[f"skill_volatility {name}"].value)


def test_where_nothing_was_served_or_trained_there_is_no_verdict(tmp_path):
    mill = mill_at(tmp_path)
    for check, why in ((skillful(BTC), "nothing that was served"), (beats_baseline(), f"{BTC} has no example")):
        said = seen(check, mill)
        assert (said.passed, said.severity) == (False, WARN)
        assert said.description.startswith(f"not judged: {why}")
