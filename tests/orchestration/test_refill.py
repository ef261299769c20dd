"""Lost days are asked for by themselves, each range a bounded number of times."""

import json
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from assets.completeness import COMPLETE, MISSING_DAYS, TABLES
from assets.services import REASON
from orchestration.jobs import REFILL
from orchestration.refill import ATTEMPTS, PAUSES_S, missing_days_sensor
from tests.mills import TOML, mill_at
from tests.orchestration.ticks import bare_job, first_models, requests, said
from warehouse import identity

WEEK, DAY = "2025-01-01/2025-01-07", "2025-02-01/2025-02-01"


@pytest.fixture
def sensor(mill, control):
    first_models(mill, control)
    return missing_days_sensor(mill.places)


@pytest.fixture
def judge(instance):
    """Let the checks say which days are missing."""

    def say(**missing):
        for table in TABLES:
            days = missing.get(table, [])
            metadata = {MISSING_DAYS: dg.MetadataValue.json(days)}
            key = dg.AssetKey(table)
            event = dg.AssetCheckEvaluation(
                asset_key=key, check_name=COMPLETE, passed=not days, metadata=metadata, blocking=False
            )
            instance.report_runless_asset_event(event)

    return say


def range_of(request):
    return "/".join(request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))


def test_nothing_is_asked_for_before_the_first_models_and_before_a_judgement(mill, control, tick, judge):
    sensor = missing_days_sensor(mill.places)
    judge(bars=[WEEK])
    assert said(tick(sensor)) == "history is filled for the first models"


def test_without_a_judgement_nothing_is_known(sensor, tick):
    assert said(tick(sensor)) == "no check `complete` has been evaluated yet; the schedule `hourly` does so"


def test_whole_history_needs_nothing(sensor, tick, judge):
    judge()
    assert said(tick(sensor)) == "no day is missing"


def test_lost_days_are_asked_for_one_range_at_a_time_and_with_their_reason(sensor, tick, judge, instance):
    judge(bars=[WEEK], features=[WEEK, DAY])
    [request] = requests(tick(sensor))
    assert range_of(request) == WEEK
    assert request.tags[REASON] == "days were lost: bars, features"
    run = instance.create_run_for_job(bare_job(REFILL), status=dg.DagsterRunStatus.STARTED)
    assert said(tick(sensor)) == "history is just being filled"
    instance.report_run_failed(run)
    judge(features=[DAY])
    [request] = requests(tick(sensor))
    assert range_of(request) == DAY
    judge()
    assert said(tick(sensor)) == "no day is missing"
    assert json.loads(tick.cursors["missing_days"]) == {}


def test_attempts_are_bounded_and_further_and_further_apart(sensor, tick, judge):
    judge(bars=[WEEK])
    for attempt in range(1, ATTEMPTS + 1):
        assert requests(tick(sensor)), attempt
        assert not requests(tick(sensor))
        if attempt < ATTEMPTS:
            left = float(said(tick(sensor)).rsplit(maxsplit=2)[1])
            assert PAUSES_S[attempt - 1] - 60 < left <= PAUSES_S[attempt - 1]
        times = json.loads(tick.cursors["missing_days"])[WEEK]
        tick.cursors["missing_days"] = json.dumps({WEEK: [at - 86_400 for at in times]})
    assert said(tick(sensor)).startswith(f"{WEEK}: {ATTEMPTS} runs did not fill it")


def test_a_lake_that_was_begun_again_has_all_of_its_history_filled(mill, sensor, tick, judge):
    judge()
    home, began = mill.places.home, datetime.now(UTC) + timedelta(seconds=2)
    record = identity.Identity.new().having("lake", "l2")
    stores = {"lake": record.stores["lake"].model_copy(update={"at": began})}
    identity.write(home, record.model_copy(update={"stores": stores}))
    [request] = requests(tick(sensor))
    assert range_of(request) == "2025-01-01/2025-01-02"
    assert request.tags[REASON].startswith("the lake was begun again at ")
    while time.time() < began.timestamp():
        time.sleep(0.05)
    judge()
    assert said(tick(sensor)) == "no day is missing"


def test_a_market_that_tells_no_old_day_is_not_asked(tmp_path, tick):
    toml = TOML.replace("simulated:", "").replace("[market]", '[market]\nsource = "kraken"')
    mill = mill_at(tmp_path / "kraken", toml)
    words = "kraken need not tell an old day again: days that were lost stay lost"
    assert said(tick(missing_days_sensor(mill.places))) == words
