"""Runs whose workers are real processes, alive and killed."""

import subprocess
import sys

import dagster as dg
import pytest
from dagster._core.events import EngineEventData  # what Dagster's own worker reports; it has no public name

from orchestration.instance import prepare_instance
from orchestration.runs import KILLED, runs_under_way

STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path))) as instance:
        yield instance


@pytest.fixture
def worker():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def started(instance):
    @dg.op
    def nothing():
        return None

    @dg.job
    def work():
        nothing()

    def create(pid=None, status=STARTED):
        run = instance.create_run_for_job(work, status=status)
        if pid is not None:
            instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
        return run.run_id

    return create


def ids(runs):
    return {run.run_id for run in runs}


def test_a_run_whose_worker_lives_is_under_way(instance, started, worker):
    run = started(worker.pid)
    assert ids(runs_under_way(instance)) == {run}
    assert instance.get_run_by_id(run).status == STARTED


def test_a_run_whose_worker_was_killed_is_failed_and_nobody_waits_for_it(instance, started, worker):
    run = started(worker.pid)
    worker.kill()
    worker.wait()
    assert ids(runs_under_way(instance)) == set()
    failed = instance.get_run_by_id(run)
    assert (failed.status, failed.tags[KILLED]) == (dg.DagsterRunStatus.FAILURE, str(worker.pid))
    said = [entry.dagster_event.message for entry in instance.all_logs(run) if entry.dagster_event]
    assert any(f"its worker, process {worker.pid}, was killed" in (text or "") for text in said)


def test_a_run_without_a_known_worker_counts_as_under_way_until_its_time_limit(instance, started):
    runs = {started(), started(status=dg.DagsterRunStatus.STARTING)}
    started(status=dg.DagsterRunStatus.SUCCESS)
    assert ids(runs_under_way(instance)) == runs
