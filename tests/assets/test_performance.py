"""What is served is recorded as numbers, tables, pictures and a page, or the run is red."""

import re

import dagster as dg
import pytest

from assets.performance import REPORT, numbers_of, performance_asset
from assets.plots import LIMIT
from assets.scorecard import served_card
from domain.services import SERVICES
from orchestration.definitions import definitions
from tests.mills import TOML, materialized, mill_at

BTC = "simulated:BTC-USD"


def perform(mill, instance, hours=None):
    config = {"ops": {"prediction_performance": {"config": {"hours": hours}}}} if hours else None
    return dg.materialize(
        [performance_asset()], instance=instance, resources={"mill": mill}, run_config=config, raise_on_error=False
    )


@pytest.fixture(scope="module")
def performed(served):
    mill, _ = served
    with dg.DagsterInstance.ephemeral() as instance:
        assert perform(mill, instance).success
        [event] = materialized(instance, "prediction_performance")
        yield mill, event.metadata


def test_every_number_of_every_line_is_there_to_plot(performed):
    mill, metadata = performed
    with mill.lake() as lake:
        card = served_card(lake, mill.project, BTC, 168, None)
    numbers = numbers_of(card)
    assert {"coverage", "loss_volatility", "skill_volatility_vs_ewma", "skill_volatility_low", "slope_direction"} < set(
        numbers
    )
    for what, value in numbers.items():
        assert metadata[f"{what} simulated_BTC_USD"].value == value
        assert f"{what} simulated_ETH_USD" in metadata
    assert "skill_volatility_vs_frozen simulated_BTC_USD" in metadata
    assert metadata["coverage simulated_BTC_USD"].value == 1.0


def test_tables_hold_a_row_a_target_and_the_newest_versions(performed):
    _, metadata = performed
    assert len(metadata["skills"].records) == 6
    newest = [record.data for record in metadata["newest_versions"].records]
    assert len(newest) == 40
    versions = [int(row["version"]) for row in newest if row["line"] == BTC]
    assert versions == sorted(versions, reverse=True)


def test_pictures_are_small_and_the_market_is_called_simulated(performed):
    _, metadata = performed
    pictures = [value.value for value in metadata.values() if str(value.value).startswith("![](data:image/png")]
    assert len(pictures) == 2
    assert sum(map(len, pictures)) < 1.5 * LIMIT
    assert metadata["simulated"].value is True
    assert metadata["window"].value.startswith("SIMULATED market, 168 h until 2025-01-02 23:55:00 UTC")


def test_the_report_is_one_page_that_needs_nothing_but_itself(performed):
    mill, metadata = performed
    page = (mill.places.home / REPORT).read_text()
    assert metadata["report"].value == str(mill.places.home.absolute() / REPORT)
    assert "<b>SIMULATED market</b>" in page
    assert page.count('src="data:image/png;base64,') == 4
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://", page)
    assert f"{BTC}: 1,435 of 1,435 vectors answered" in page


def test_where_nothing_was_served_the_run_is_red_and_says_what_to_do(filled, instance):
    mill, _ = filled
    run = perform(mill, instance)
    assert not run.success
    failure = next(event for event in run.all_events if event.is_step_failure).event_specific_data
    assert (
        "nothing that was served in the 168 hours before the newest label has an outcome" in failure.error.to_string()
    )
    assert materialized(instance, "prediction_performance") == []


def test_hours_are_asked_for_and_a_line_that_was_not_served_is_named_and_has_no_numbers(served, tmp_path, instance):
    mill, _ = served
    three = mill_at(tmp_path, TOML.replace('"simulated:ETH-USD"', '"simulated:ETH-USD", "simulated:SOL-USD"'))
    assert perform(type(mill)(three.project, mill.places), instance, hours=3).success
    [event] = materialized(instance, "prediction_performance")
    assert event.metadata["answers simulated_BTC_USD"].value == 180
    assert event.metadata["not_served"].value == "simulated:SOL-USD"
    assert not [name for name in event.metadata if "SOL" in name]


def test_an_evaluation_says_something_of_everything(served, instance):
    mill, _ = served
    job = definitions(mill.places, mill.project).resolve_job_def("evaluate")
    run = job.execute_in_process(instance=instance, raise_on_error=False)
    assert run.success
    assert len(materialized(instance, "prediction_performance")) == 1
    evaluated = run.get_asset_check_evaluations()
    said = {f"{one.asset_key.to_user_string()}/{one.check_name}": one for one in evaluated}
    tended = {name for name in said if name.endswith("/tended")}
    assert len(tended) == len(SERVICES)
    assert not any(said.pop(name).passed for name in tended), "no service was deployed here"
    assert len(said) == 17
    silent = {name for name, one in said.items() if not one.passed and (one.description or "").startswith("not judged")}
    # Nothing streams here: no clock, no row that came from the stream, no service that counts.
    assert silent == {
        *("bars/fresh", "features/fresh", "examples/fresh", "features/no_skew", "predictions/dead_letters"),
    }
    assert all(one.metadata for name, one in said.items() if name not in silent)
