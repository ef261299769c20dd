"""A person's day with Dagster in a browser: look, backfill, heal, retrain, promote, roll back, find and mend a gap."""

import os
import re
import signal
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from domain.config import Places
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from tests.walk.screen import LOCATION
from tests.walk.up import ENDED, wait_for
from warehouse.control import Control
from warehouse.features import read_times, span
from warehouse.lake import Lake
from warehouse.registry import Registry
from warehouse.roles import Roles

BTC, ETH = "simulated:BTC-USDT", "simulated:ETH-USDT"
GROUPS = {
    "history": ("bars", "features", "examples"),
    "models": ("initial_model", "prediction_performance"),
    "model_versions": tuple(
        f"simulated_{name}_USDT{part}" for name in ("BTC", "ETH") for part in ("", "_challenger")
    ),
    "services": ("ingest", "featurizer", "trainer", "challenger", "predictor", "lander", "predictions"),
}  # fmt: skip
EXPANDED = "%2C".join(f"global%40global%3A{group}" for group in GROUPS)
DAYS = ("2025-01-03", "2025-01-04", "2025-01-05")
A_DAY = 2 * 24 * 60  # rows: a minute each, of two instruments
HOLE = 30

pytestmark = pytest.mark.timeout(900)


def test_the_graph_shows_every_group_and_every_asset(mill, screen):
    screen.open(f"/asset-groups/?expanded={EXPANDED}")
    names = [name for group in GROUPS.values() for name in group]

    def every_asset():
        labels = screen.page.locator("foreignObject").all_text_contents()
        return sum(any(is_short_for(label, name) for name in names) for label in labels) == len(names)

    wait_for("a node for every asset", 90, every_asset)
    screen.look("day-1-graph")


def test_a_range_of_days_is_backfilled_by_one_run(mill, screen):
    screen.open(f"/locations/{LOCATION}/asset-groups/history")
    known = {run["runId"] for run in mill.runs()}
    screen.press("Materialize all…")
    choose_days(screen, f"[{DAYS[0]}...{DAYS[-1]}]")
    screen.look("day-2-backfill")
    screen.press("Launch backfill")
    [run] = ended(mill, known)  # not one a day
    assert run["status"] == "SUCCESS"
    assert "dagster/backfill" in run["tags"]
    for name in GROUPS["history"]:
        days = [event for event in materializations(mill, name) if event["runId"] == run["runId"]]
        assert {event["partition"]: event["metadata"]["rows"] for event in days} == dict.fromkeys(DAYS, A_DAY)
    screen.open(f"/runs/{run['runId']}")
    screen.see("Success")
    screen.look("day-2-run")


def test_versions_of_a_line_are_plotted(mill, screen):
    key = ["model_versions", "simulated_BTC_USDT"]
    wait_for("two versions are noted", 180, lambda: len(materializations(mill, *key)) > 1)
    screen.open(f"/assets/{'/'.join(key)}?view=overview")
    screen.press("Plots")
    screen.see("loss_volatility", "skill_volatility_vs_frozen")
    screen.page.get_by_text("loss_volatility", exact=True).first.scroll_into_view_if_needed()
    screen.look("day-4-versions")


def test_a_killed_trainer_comes_back_as_a_run_with_its_reason(mill, screen):
    wait_for("every service healthy", 120, lambda: mill.status()[0])
    pid = mill.status()[1]["trainer"]["pid"]
    known = {run["runId"] for run in mill.runs()}
    os.kill(pid, signal.SIGKILL)
    [run] = ended(mill, known, lambda run: run["jobName"] == "redeploy")
    assert run["status"] == "SUCCESS"
    reason = run["tags"]["tidemill/reason"]
    assert reason.startswith(f"trainer: process {pid} ended")
    newest = materializations(mill, "services", "trainer")[0]
    assert newest["runId"] == run["runId"]
    assert newest["metadata"]["seconds_detection_to_healthy"] > 0
    screen.open(f"/runs/{run['runId']}")
    screen.see("Success")
    screen.page.get_by_text(f"process {pid} ended").first.wait_for()
    screen.look("day-5-redeploy")


def test_a_line_is_retrained_promoted_rolled_back_and_released(mill, screen):
    places = Places(home=mill.home)
    with Control.open(places.control) as control:
        roles, registry = Roles(control), Registry(control, places.models)

        def served():
            number = mill.get(f"/predictions?instrument={ETH}")["model_version"]
            return number, registry.find(ETH, number).line

        def status_of(name):
            return mill.status()[1][name]

        former = roles.of(ETH).champion
        launch(mill, screen, "retrain", "retrain_line", instrument=ETH, days=2, reason="the fleet was changed")
        screen.look("day-6-retrain")
        challenger = roles.of(ETH).challenger
        assert challenger not in {None, former}
        wait_for("the challenger is healthy", 60, lambda: status_of("challenger")["healthy"])
        assert served()[1] == former

        launch(mill, screen, "promote", "choose_champion", instrument=ETH, reason="it knows as much")
        screen.look("day-6-promote")
        assert roles.of(ETH).champion == challenger
        wait_for("the promoted line serves", 60, lambda: served()[1] == challenger)

        launch(mill, screen, "rollback", "hold_version", instrument=ETH, version=1, reason="to compare")
        screen.look("day-6-rollback")
        wait_for("version 1 serves", 60, lambda: served()[0] == 1)
        wait_for("status says so", 30, lambda: status_of("predictor")["version"].endswith(" v1 held"))

        launch(mill, screen, "promote", "choose_champion", instrument=ETH, what="NEWEST", reason="compared")
        screen.look("day-6-newest")
        wait_for("the newest version serves", 60, lambda: served()[0] > 1)
        assert served()[1] == challenger
        wait_for("status says so", 30, lambda: "held" not in status_of("predictor")["version"])

    key = ("model_versions", "simulated_ETH_USDT")
    said = "hold: to compare; version 1 of simulated:ETH-USDT serves"
    [decision] = wait_for(
        "the rollback is noted", 60,
        lambda: [event for event in materializations(mill, *key) if event["description"] == said],
    )  # fmt: skip
    screen.open(f"/assets/{'/'.join(key)}?view=events&time={decision['timestamp']}")
    screen.see(said)
    screen.look("day-6-decision")


def test_a_hole_turns_the_check_red_and_materializing_its_day_mends_it(mill, screen):
    with Lake.open(Places(home=mill.home)) as lake:
        day = span(lake, "bars", BTC)[1] // NANOS_PER_DAY - 1
        name, noon = named(day), day * NANOS_PER_DAY + NANOS_PER_DAY // 2
        lake.write(
            lambda connection: connection.execute(
                "DELETE FROM bars WHERE instrument = ? AND ts_event > ? AND ts_event <= ?",
                [BTC, noon, noon + HOLE * NANOS_PER_MINUTE],
            )
        )
    lacks = f"{BTC} lacks {HOLE} bars after {name} 12:00:00 UTC"

    known = {run["runId"] for run in mill.runs()}
    screen.open("/assets/bars?view=checks&checkDetail=gapless")
    screen.see("gapless")
    screen.press(re.compile("Execute$"))  # not all of them
    ended(mill, known)
    screen.see("Failed")
    screen.page.get_by_text(lacks).first.wait_for()
    screen.look("day-7-red")

    known = {run["runId"] for run in mill.runs()}
    screen.press("Materialize…")
    choose_days(screen, name)
    screen.press(re.compile("Launch (backfill|1 run)"))
    [run] = ended(mill, known)
    assert run["status"] == "SUCCESS"
    screen.open("/assets/bars?view=checks&checkDetail=gapless")
    screen.see("Passed")
    screen.look("day-7-green")
    assert screen.page.get_by_text(lacks).count() == 0
    with Lake.open(Places(home=mill.home), read_only=True) as lake:
        assert len(read_times(lake, "bars", BTC, day * NANOS_PER_DAY, (day + 1) * NANOS_PER_DAY)) == A_DAY // 2


def test_what_was_served_is_judged_in_pictures_and_by_every_check(mill, screen):
    known = {run["runId"] for run in mill.runs()}
    screen.open("/assets/prediction_performance?view=overview")
    screen.press("Materialize")
    [run] = ended(mill, known)
    assert run["status"] == "SUCCESS"
    screen.open("/assets/prediction_performance?view=overview")
    screen.press("Plots")
    plot = screen.page.get_by_text("skill_volatility_vs_frozen simulated_BTC_USDT").first
    plot.scroll_into_view_if_needed()
    screen.look("day-8-performance")

    run = launch(mill, screen, "evaluate")
    screen.look("day-8-evaluate")
    assert evaluated(mill, run) == defined_checks(mill)


def test_the_schedule_has_looked_whether_the_market_closed_a_day(mill, screen):
    """Last, for its clock strikes every five minutes."""
    query = (
        "query($of:ScheduleSelector!){scheduleOrError(scheduleSelector:$of){...on Schedule{scheduleState"
        "{ticks(limit:50){status skipReason}}}}}"
    )
    of = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION, "scheduleName": "closed_day"}

    def first_tick():
        ticks = mill.ask_dagster(query, of=of)["scheduleOrError"]["scheduleState"]["ticks"]
        return ticks[-1:] if ticks and ticks[-1]["status"] != "STARTED" else None

    [tick] = wait_for("a tick of closed_day", 400, first_tick)
    assert tick["status"] == "SKIPPED"
    assert "the market has not closed 2025-01-08 yet" in tick["skipReason"]
    screen.open(f"/locations/{LOCATION}/schedules/closed_day")
    screen.page.get_by_role("button", name="0 runs requested").last.click()
    screen.page.get_by_text("the market has not closed 2025-01-08 yet").first.wait_for()
    screen.look("day-3-schedule")


def is_short_for(label, name):
    """Whether a node of the graph so labelled is this asset: from afar the middle of a long name is left out."""
    head, _, tail = label.strip().partition("…")
    return name == head if not tail else name.startswith(head) and name.endswith(tail)


def choose_days(screen, text):
    """Fill the dialog in which days to materialize are chosen."""
    days = screen.page.get_by_placeholder("ex: 2025-01-01", exact=False)
    days.fill(text)
    days.press("Enter")


def launch(mill, screen, job, op="", **config):
    """Launch a job from its form, filled by the address; return its run, which has ended well, its page open."""
    known = {run["runId"] for run in mill.runs()}
    fields = "".join(f"      {name}: {value}\n" for name, value in config.items())
    filled = f"ops:\n  {op}:\n    config:\n{fields}" if op else "{}"
    screen.open(f"/locations/{LOCATION}/jobs/{job}/playground/setup?config={quote(filled)}")
    screen.see("No errors")
    screen.press("Launch Run")
    [run] = ended(mill, known)
    assert run["status"] == "SUCCESS"
    screen.see("Success")
    return run


def by_hand(run):
    """Whether neither a schedule nor a sensor asked for the run."""
    return not {"dagster/schedule_name", "dagster/sensor_name"} & run["tags"].keys()


def ended(mill, known, wanted=by_hand):
    """Return the runs that are wanted and were not known, once there are some and all have ended."""

    def look():
        fresh = [run for run in mill.runs() if run["runId"] not in known and wanted(run)]
        return fresh if fresh and all(run["status"] in ENDED for run in fresh) else None

    return wait_for("a run has ended", 300, look)


def materializations(mill, *key):
    """Return an asset's newest materializations, newest first, each with its run, partition and numbers."""
    query = (
        "query($of:AssetKeyInput!){assetOrError(assetKey:$of){...on Asset{assetMaterializations(limit:50)"
        "{runId partition timestamp description metadataEntries{label ...on IntMetadataEntry{intValue}"
        " ...on FloatMetadataEntry{floatValue}}}}}}"
    )
    found = mill.ask_dagster(query, of={"path": list(key)})["assetOrError"]["assetMaterializations"]
    return [
        {**event, "metadata": {
            entry["label"]: entry.get("intValue", entry.get("floatValue")) for entry in event["metadataEntries"]
        }}
        for event in found
    ]  # fmt: skip


def defined_checks(mill):
    """Return every check that is defined, by its asset and name."""
    query = "{assetNodes{assetKey{path} assetChecksOrError{...on AssetChecks{checks{name}}}}}"
    nodes = mill.ask_dagster(query)["assetNodes"]
    return {
        (*node["assetKey"]["path"], check["name"]) for node in nodes for check in node["assetChecksOrError"]["checks"]
    }


def evaluated(mill, run):
    """Return the checks that a run evaluated, by asset and name."""
    query = (
        "query($id:ID!){runOrError(runId:$id){...on Run{eventConnection{events"
        "{...on AssetCheckEvaluationEvent{evaluation{assetKey{path} checkName}}}}}}}"
    )
    events = mill.ask_dagster(query, id=run["runId"])["runOrError"]["eventConnection"]["events"]
    found = [event["evaluation"] for event in events if "evaluation" in event]
    return {(*check["assetKey"]["path"], check["checkName"]) for check in found}


def named(day):
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
