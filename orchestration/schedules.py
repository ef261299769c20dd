"""Schedules: a UTC day of event time is written once more when it has closed; what is served is judged by the hour."""

from __future__ import annotations

from datetime import date, timedelta

import dagster as dg

from assets.partitions import History, date_of, text_of
from domain.config import Places
from domain.errors import TidemillError
from domain.events import NANOS_PER_DAY
from domain.health import Beat, market_clock
from orchestration.jobs import BACKFILL, EVALUATE, range_tags
from orchestration.looks import control_of
from orchestration.settings import read_project
from warehouse.heartbeats import Heartbeats

CLOSED_DAY = "tidemill/closed_day"
"""Run tag: the newest day that the run covers."""


def closed_day_schedule(places: Places, history: History) -> dg.ScheduleDefinition:
    """Return the schedule that backfills days which the market has closed since it was last asked."""

    @dg.schedule(
        name="closed_day",
        cron_schedule="*/5 * * * *",
        job_name=BACKFILL,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        execution_timezone="UTC",
        description="Whenever the market's own clock has closed a UTC day: writes its bars, vectors and examples again "
        "from history. The rows are those that streamed in, bit for bit; what was missed meanwhile is filled.",
    )
    def closed_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            clock, market = clock_of(places), read_project(places).market
        except TidemillError as error:
            return dg.SkipReason(str(error))
        if not market.tells_days:
            return dg.SkipReason(f"{market.source} need not tell an old day again: days stay as they streamed in")
        newest = date_of(clock // NANOS_PER_DAY * NANOS_PER_DAY)
        first = _last_requested(context.instance) or date_of(history.until)
        first += timedelta(days=1)
        if newest < first:
            stands = f"it stands at {text_of(clock)}" if clock else "it has not begun"
            return dg.SkipReason(f"the market has not closed {first.isoformat()} yet: {stands}")
        days = range_tags(first.isoformat(), newest.isoformat())
        return dg.RunRequest(run_key=newest.isoformat(), tags={**days, CLOSED_DAY: newest.isoformat()})

    return closed_day


def hourly_schedule(places: Places) -> dg.ScheduleDefinition:
    """Return the schedule that evaluates what is served, once there is something."""

    @dg.schedule(
        name="hourly",
        cron_schedule="0 * * * *",
        job_name=EVALUATE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        execution_timezone="UTC",
        description="Every hour: compares served predictions with what then happened, and runs every check.",
    )
    def hourly() -> dg.RunRequest | dg.SkipReason:
        try:
            beats = beats_of(places)
        except TidemillError as error:
            return dg.SkipReason(str(error))
        if not any(beat.detail.get("predictions") for beat in beats if beat.service == "predictor"):
            return dg.SkipReason("nothing has been served yet: no predictor has told of an answer")
        return dg.RunRequest()

    return hourly


def clock_of(places: Places) -> int:
    """Return how far the market has become bars, ns of event time; 0 before the first."""
    return market_clock(beats_of(places))


def beats_of(places: Places) -> list[Beat]:
    """Return the newest heartbeats; none while there is no control database."""
    with control_of(places) as control:
        return Heartbeats(control).beats() if control is not None else []


def _last_requested(instance: dg.DagsterInstance) -> date | None:
    mine = dg.RunsFilter(job_name=BACKFILL, tags={"dagster/schedule_name": "closed_day"})
    for run in instance.get_runs(mine, limit=1):
        if CLOSED_DAY in run.tags:
            return date.fromisoformat(run.tags[CLOSED_DAY])
    return None
