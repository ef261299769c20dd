"""The sensor that brings the system up: history, the first models, and every service.

A tick of any sensor is short and reads the control database and the supervisor's files only: no broker, no lake, no
model. The others are in ``health`` and ``versions``.
"""

from __future__ import annotations

import json
import time

import dagster as dg

from assets.models import INITIAL
from assets.partitions import INSTRUMENTS, History, date_of, history_of
from assets.services import REASON
from domain.config import Places, Project
from domain.errors import TidemillError
from orchestration import ticks
from orchestration.jobs import BOOTSTRAP, TRAIN, range_tags
from orchestration.looks import control_of, lines_without_version
from orchestration.opening import join
from orchestration.runs import KILLED, runs_under_way
from orchestration.schedules import clock_of
from orchestration.settings import read_project

TICK_S = 3
"""Asked for; Dagster looks every 5 s."""

ATTEMPTS, BACK_OFF_S = 3, 60.0
"""Bootstraps tried before a person is needed, and the pause between them, seconds."""


def bootstrap_sensor(places: Places, history: History) -> dg.SensorDefinition:
    """Return the sensor that fills history, trains the first models and deploys everything, once."""

    @dg.sensor(
        name="bootstrap",
        job_name=BOOTSTRAP,
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="While a line has no model: one run that backfills history, trains, and deploys every service.",
    )
    def bootstrap(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ticks.note(places, "bootstrap", context.instance)
        try:
            project = read_project(places)
            with control_of(places) as control:
                missing = lines_without_version(control, places, project)
            clock = clock_of(places)
        except TidemillError as error:
            return dg.SkipReason(str(error))
        if not missing:
            return dg.SensorResult(skip_reason="every line has a model", cursor="")
        if any(
            run.job_name in {BOOTSTRAP, TRAIN} or _selects(run, INITIAL) for run in runs_under_way(context.instance)
        ):
            return dg.SkipReason("a first training is under way")
        tried: list[float] = json.loads(context.cursor or "[]")
        now = time.time()
        if len(tried) >= ATTEMPTS:
            return dg.SkipReason(
                f"{len(tried)} attempts failed; see their runs, mend the cause, then reset this sensor's cursor"
            )
        killed = any(
            KILLED in run.tags for run in context.instance.get_runs(dg.RunsFilter(job_name=BOOTSTRAP), limit=1)
        )
        if tried and not killed and now - tried[-1] < BACK_OFF_S:
            return dg.SkipReason(f"the last attempt failed; the next is in {BACK_OFF_S - (now - tried[-1]):.0f} s")
        joining = clock > 0 and len(missing) < len(project.instruments)
        tags = _joining(places, project, missing, clock) if joining else _days([history])
        request = dg.RunRequest(tags={**tags, REASON: f"no model yet: {', '.join(missing)}"})
        return dg.SensorResult([request], cursor=json.dumps([*tried, now]))

    return bootstrap


def _joining(places: Places, project: Project, missing: list[str], clock: int) -> dict[str, str]:
    """Return the tags of a run for instruments that join a market which goes on.

    Their streams begin where it is now: nobody fetches the trades of the weeks since the opening.
    """
    project = join(places, project, missing, clock)
    return {**_days([history_of(project, name) for name in missing]), INSTRUMENTS: " ".join(missing)}


def _days(histories: list[History]) -> dict[str, str]:
    first, last = min(history.start for history in histories), max(history.until for history in histories)
    return range_tags(date_of(first + 1).isoformat(), date_of(last).isoformat())


def _selects(run: dg.DagsterRun, key: dg.AssetKey) -> bool:
    return run.asset_selection is not None and key in run.asset_selection
