"""The first model of every line, trained by Dagster from a real lake, and its versions as events."""

import math

import dagster as dg
import pytest

from assets.models import loss_table
from assets.partitions import history_of
from assets.versions import line_name, score_metadata, version_event, version_key
from orchestration.definitions import definitions
from tests.mills import materialized, mill_at
from warehouse.registry import Registry


@pytest.fixture(scope="module")
def trained(filled):
    mill, instance = filled
    defs = definitions(mill.places, mill.project)
    assert defs.resolve_job_def("train").execute_in_process(instance=instance).success
    return mill, instance, defs


def newest(mill, line):
    with mill.control() as control:
        registry = Registry(control, mill.places.models)
        return registry.newest(line), registry.count(line)


def test_each_line_gets_a_first_version_that_ends_at_the_seam(trained):
    mill, instance, _ = trained
    event = materialized(instance, "initial_model")[0]
    for line in mill.project.instruments:
        version, count = newest(mill, line)
        assert (version.number, version.kind, count) == (1, "initial", 1)
        assert version.watermark == history_of(mill.project).until
        said = {key.removeprefix(f"{line_name(line)} "): value.value for key, value in event.metadata.items()}
        assert said["outcome"] == "published"
        assert said["n_learned"] == version.n_learned > 2000
        assert said["digest"] == version.digest
        assert said["snapshot"] == version.snapshot


def test_losses_and_skills_are_numbers_that_dagster_can_plot(trained):
    mill, instance, _ = trained
    event = materialized(instance, "initial_model")[0]
    for line in mill.project.instruments:
        for target in ("price_change", "direction", "volatility"):
            names = [f"loss_{target}", *(f"skill_{target}_vs_{name}" for name in ("mean", "persistence", "ewma"))]
            for name in names:
                value = event.metadata[f"{line_name(line)} {name}"]
                assert isinstance(value, dg.FloatMetadataValue)
                assert math.isfinite(value.value)
    assert event.metadata["simulated_BTC_USD skill_volatility_vs_mean"].value > 0


def test_training_again_publishes_nothing_and_says_so(trained):
    mill, instance, defs = trained
    before = {line: newest(mill, line) for line in mill.project.instruments}
    assert defs.resolve_job_def("train").execute_in_process(instance=instance).success
    assert {line: newest(mill, line) for line in mill.project.instruments} == before
    event = materialized(instance, "initial_model")[-1]
    assert event.metadata["simulated_BTC_USD outcome"].value.startswith("published nothing")


def test_a_version_is_an_event_of_its_lines_asset(trained):
    mill, _, _ = trained
    version, _ = newest(mill, "simulated:ETH-USD")
    event = version_event(version, None, 0)
    assert event.asset_key == version_key("simulated:ETH-USD") == dg.AssetKey(["model_versions", "simulated_ETH_USD"])
    assert event.tags == {"dagster/data_version": version.digest}
    assert event.metadata["version"].value == 1
    assert event.metadata["watermark"].value == history_of(mill.project).until / 1e9


def test_skill_is_told_of_champions_against_yardsticks_and_never_as_nan():
    scores = {
        "volatility": {
            "rls": {"n": 4, "loss": 1.0, "recent_loss": math.nan, "drift": 0.3, "drifts": 2},
            "other": {"n": 4, "loss": 0.1, "recent_loss": 0.1},
            "mean": {"n": 4, "loss": 2.0, "recent_loss": 2.0},
            "frozen": {"n": 4, "loss": 0.5, "recent_loss": 0.5},
            "persistence": {"n": 4, "loss": 0.0, "recent_loss": 0.0},
        },
        "direction": {"mean": {"n": 1, "loss": 0.7, "recent_loss": 0.7}},
    }
    assert score_metadata(scores, {"volatility": "rls", "direction": "rls"}) == {
        "loss_volatility": 1.0,
        "n_volatility": 4,
        "drift_volatility": 0.3,
        "drifts_volatility": 2,
        "skill_volatility_vs_mean": 0.5,
        "skill_volatility_vs_frozen": -1.0,
    }


def test_without_history_there_is_no_model_and_the_run_is_red(tmp_path, instance):
    mill = mill_at(tmp_path)
    job = definitions(mill.places, mill.project).resolve_job_def("train")
    run = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not run.success
    assert newest(mill, "simulated:BTC-USD") == (None, 0)


def test_the_loss_table_has_a_row_for_each_line_and_target_and_leaves_out_who_was_not_scored():
    scores = {
        "a:B": {"volatility": {"rls": {"loss": 0.5}, "mean": {"loss": 1.0}}, "direction": {"mean": {"loss": 0.7}}}
    }
    records = [record.data for record in loss_table(scores).records]
    assert records == [
        {"line": "a:B", "target": "direction", "rls": "", "mean": "0.7"},
        {"line": "a:B", "target": "volatility", "rls": "0.5", "mean": "1"},
    ]
