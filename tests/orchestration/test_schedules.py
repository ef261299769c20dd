"""The schedule goes by the market's clock, which the heartbeats tell."""

import time
from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.partitions import history_of
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.health import Beat
from orchestration.definitions import definitions
from orchestration.schedules import closed_day_schedule, hourly_schedule
from tests.mills import TOML, mill_at
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats


@pytest.fixture
def schedule(tmp_path):
    """The schedule, a hand on the market's clock, and an instance in which requests become runs."""
    mill = mill_at(tmp_path)
    schedule, seam = closed_day_schedule(mill.places, history_of(mill.project)), history_of(mill.project).until
    job = definitions(mill.places, mill.project).resolve_job_def("backfill")

    class Scene:
        def stand_at(self, days, minutes=0):
            mark, now = seam + days * NANOS_PER_DAY + minutes * NANOS_PER_MINUTE, time.time()
            detail = {"watermark": mark}
            beat = Beat("featurizer", "test", 1, "running", 0, {}, 1, now, 0, True, now, now, detail)
            with Control.open(mill.places.control) as control:
                assert Heartbeats(control).beat(beat)

        def tick(self):
            context = dg.build_schedule_context(instance, scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC))
            result = schedule(context)
            if isinstance(result, dg.SkipReason):
                return result.skip_message
            tags = result.tags | {"dagster/schedule_name": "closed_day"}
            instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
            return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]

    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Scene()


def test_before_the_market_has_begun_there_is_nothing_to_do(schedule):
    assert schedule.tick() == "the market has not closed 2025-01-03 yet: it has not begun"


def test_a_day_is_asked_for_when_it_has_closed_and_once(schedule):
    schedule.stand_at(0, minutes=1439)
    assert schedule.tick() == "the market has not closed 2025-01-03 yet: it stands at 2025-01-03 23:59:00 UTC"
    schedule.stand_at(1)
    assert schedule.tick() == ("2025-01-03", "2025-01-03")
    assert schedule.tick().startswith("the market has not closed 2025-01-04 yet")
    schedule.stand_at(2, minutes=3)
    assert schedule.tick() == ("2025-01-04", "2025-01-04")
    assert schedule.tick().startswith("the market has not closed 2025-01-05 yet")


def test_days_missed_meanwhile_are_asked_for_in_one_run(schedule):
    schedule.stand_at(1)
    assert schedule.tick() == ("2025-01-03", "2025-01-03")
    schedule.stand_at(5, minutes=30)
    assert schedule.tick() == ("2025-01-04", "2025-01-07")
    assert schedule.tick().startswith("the market has not closed 2025-01-08 yet")


@pytest.fixture
def hourly(tmp_path):
    """What the hourly schedule says, and a hand that lets the predictor tell of its answers."""
    mill = mill_at(tmp_path)

    class Scene:
        def tell(self, **detail):
            now = time.time()
            beat = Beat("predictor", "test", 1, "running", 0, {}, 1, now, 0, True, now, now, detail)
            with Control.open(mill.places.control) as control:
                assert Heartbeats(control).beat(beat)

        def tick(self):
            return hourly_schedule(mill.places)(dg.build_schedule_context())

    return Scene()


def test_while_nothing_was_served_there_is_nothing_to_evaluate(hourly):
    assert hourly.tick().skip_message == "nothing has been served yet: no predictor has told of an answer"
    hourly.tell(predictions=0)
    assert isinstance(hourly.tick(), dg.SkipReason)


def test_what_is_served_is_evaluated_each_hour(hourly):
    hourly.tell(predictions=1)
    assert isinstance(hourly.tick(), dg.RunRequest)


def test_days_of_a_market_that_tells_its_newest_candles_only_stay_as_they_streamed_in(tmp_path):
    toml = TOML.replace("simulated:", "").replace("[market]", '[market]\nsource = "kraken"')
    mill = mill_at(tmp_path, toml)
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC))
    result = closed_day_schedule(mill.places, history_of(mill.project))(context)
    assert result.skip_message == "kraken need not tell an old day again: days stay as they streamed in"
