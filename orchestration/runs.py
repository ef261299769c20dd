"""Runs under way, told from those that only seem to be: a killed worker leaves its run STARTED, and nobody notices.

Only the Dagster process that launched a worker watches it. When both are killed, as by ``tidemill down`` in the middle
of a run, the run would count as under way until its time limit, and hold up whoever waits for it.
"""

from __future__ import annotations

import dagster as dg

from orchestration.processes import identity

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


KILLED = "tidemill/killed"
"""Run tag: the worker that was killed."""


def runs_under_way(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that are under way; those whose worker is gone are reported as failed instead.

    Notes
    -----
    Should another process have taken over the worker's number, the run's time limit ends it.
    """
    found = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY), limit=100):
        worker = worker_of(instance, run) if run.status == dg.DagsterRunStatus.STARTED else None
        if worker is not None and identity(worker) is None:
            instance.add_run_tags(run.run_id, {KILLED: str(worker)})
            instance.report_run_failed(run, f"its worker, process {worker}, was killed")
        else:
            found.append(run)
    return found


def worker_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """Return the process of this machine that executes the run, None when that is not known."""
    if type(instance.run_launcher).__name__ != "DefaultRunLauncher":
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None and str(pid.value).isdigit():
            return int(str(pid.value))
    return None
