"""Sensors on a real control database."""

import json

import dagster as dg
import pytest

from assets.partitions import history_of
from assets.services import REASON
from assets.versions import version_key
from domain.health import Beat
from orchestration.jobs import BOOTSTRAP
from orchestration.runs import KILLED
from orchestration.sensors import ATTEMPTS, bootstrap_sensor
from orchestration.versions import SAMPLE_S, versions_sensor
from tests.orchestration.ticks import age, bare_job, first_models, publish, requests, said
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry


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
        assert events[0].metadata["training_skill_volatility_vs_mean"].value == 0.5
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

    @pytest.mark.parametrize("cursor", ["that of the tick before", None])
    def test_killed_between_events_and_cursor_or_with_its_cursor_reset_none_is_repeated_or_forgotten(
        self, mill, control, instance, sensor, tick, cursor
    ):
        line, recorded = "simulated:BTC-USD", []

        def go_on(published):
            for n in published:
                publish(mill, control, line, n, "initial" if n == 1 else "update")
                age(control, n, line, 1_000.0 + SAMPLE_S / 2 * n)
            before = tick.cursors.get("versions")
            for event in tick(sensor).asset_events:
                instance.report_runless_asset_event(event)
                recorded.append(event.metadata["version"].value)
            # The daemon dies here, or a person resets the cursor.
            tick.cursors["versions"] = before if cursor else None

        go_on(range(1, 5))
        go_on([])
        go_on(range(5, 10))
        go_on([10])
        assert recorded == [1, 3, 5, 7, 9]

    def test_a_version_says_what_it_grew_from_and_how_old_its_knowledge_is(self, mill, control, sensor, tick):
        line = "simulated:BTC-USD"
        publish(mill, control, line, 100, "initial")
        publish(mill, control, line, 130, parent=1, offsets={"features/0": 7}, snapshot=3)
        age(control, 1, line, 1_000.0)
        clock = Beat("featurizer", "a", 1, "running", 0, {}, 1, 0.0, 0, True, 0.0, 0.0, {"watermark": 190 * 10**9})
        Heartbeats(control).beat(clock)
        first, second = (event.metadata for event in tick(sensor).asset_events)
        assert {"parent", "n_learned_since_parent"}.isdisjoint(first)
        assert first["model_age_s"].value == 90.0
        assert second["parent"].value == 1
        assert second["n_learned_since_parent"].value == 30
        assert second["model_age_s"].value == 60.0
        assert second["snapshot"].value == 3
        assert second["offsets"].data == {"features/0": 7}

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
