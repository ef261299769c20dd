"""Vectors without an answer and records that were refused are told by their share."""

import time

import dagster as dg
import pytest

from assets.serving_checks import answered, dead_letters
from domain.health import Beat
from tests.mills import mill_at
from warehouse.heartbeats import Heartbeats

BTC = "simulated:BTC-USD"
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def seen(check, mill, instance=None):
    job = dg.Definitions(asset_checks=[check], resources={"mill": mill}).resolve_implicit_global_asset_job_def()
    [evaluation] = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    return evaluation


def test_vectors_are_answered_one_by_one(served):
    mill, _ = served
    said = seen(answered(), mill)
    assert said.passed
    assert said.metadata[f"vectors {BTC}"].value == said.metadata[f"answered {BTC}"].value == 1435
    assert said.metadata[f"coverage {BTC}"].value == 1.0


@pytest.mark.parametrize(("gone", "severity"), [(5, WARN), (100, ERROR)])
def test_vectors_without_an_answer_are_a_fault(served, gone, severity):
    mill, _ = served
    rows = f"ts_event IN (SELECT ts_event FROM predictions WHERE instrument = '{BTC}' ORDER BY ts_event LIMIT {gone} OFFSET 99)"  # noqa: S608, E501
    mine = f"instrument = '{BTC}' AND {rows}"
    with mill.lake() as lake:
        kept = lake.query(f"SELECT * FROM predictions WHERE {mine}")  # noqa: S608
        lake.write(lambda c: c.execute(f"DELETE FROM predictions WHERE {mine}"))  # noqa: S608
        try:
            said = seen(answered(), mill)
        finally:
            lake.write(lambda c: c.register("kept", kept).execute("INSERT INTO predictions SELECT * FROM kept"))
    assert (said.passed, said.severity) == (False, severity)
    assert said.description.startswith(f"{gone} of 1435 vectors of {BTC} have no answer")


def test_before_anything_was_served_there_is_no_verdict(filled):
    mill, _ = filled
    said = seen(answered(), mill)
    assert (said.passed, said.severity) == (False, WARN)
    assert said.description == f"not judged: nothing was served for {BTC} yet"


class Mill:
    """Services that handle and refuse records."""

    def __init__(self, mill, instance):
        self.mill, self.instance = mill, instance

    def handled(self, progress):
        now = time.time()
        with self.mill.control() as control:
            beat = Beat("featurizer", "here", 1, "running", 0, {}, progress, now, 0, True, now, now)
            assert Heartbeats(control).beat(beat)

    def refused(self, n, reason="schema"):
        with self.mill.control() as control:
            control.count_dead_letter("featurizer", reason, n)

    def seen(self):
        return seen(dead_letters(), self.mill, self.instance)


@pytest.fixture
def busy(tmp_path, instance):
    return Mill(mill_at(tmp_path), instance)


def test_only_what_was_refused_since_the_last_look_counts(busy):
    busy.handled(10_000)
    busy.refused(200)
    first = busy.seen()
    assert (first.passed, first.severity) == (False, ERROR)
    assert first.description == "200 of 10000 records were refused: featurizer schema 200"
    busy.handled(20_000)
    busy.refused(5)
    second = busy.seen()
    assert second.passed
    assert (second.metadata["refused"].value, second.metadata["handled"].value) == (5, 10_000)
    busy.handled(30_000)
    busy.refused(50, "late")
    third = busy.seen()
    assert (third.passed, third.severity) == (False, WARN)
    assert third.description == "50 of 10000 records were refused: featurizer late 50"


def test_a_service_that_began_anew_has_handled_what_it_says_now(busy):
    busy.handled(10_000)
    assert busy.seen().passed
    busy.handled(400)
    assert busy.seen().metadata["handled"].value == 400


def test_a_standstill_is_no_verdict_and_forgets_no_count(busy):
    assert busy.seen().description.startswith("not judged: no service has handled a record")
    busy.handled(10_000)
    assert busy.seen().passed
    said = busy.seen()
    assert (said.passed, said.severity) == (False, WARN)
    busy.handled(10_010)
    assert busy.seen().metadata["handled"].value == 10
