"""The sensor that has lost days of history filled again, where the market's source tells an old day again."""

from __future__ import annotations

import json
import time

import dagster as dg

from assets.completeness import COMPLETE, MISSING_DAYS, TABLES
from assets.partitions import date_of, history_of
from assets.services import REASON
from domain.config import Places, Project
from domain.errors import TidemillError
from orchestration.jobs import BACKFILL, BOOTSTRAP, REFILL, TRAIN, range_tags
from orchestration.looks import control_of, lines_without_version
from orchestration.runs import runs_under_way
from orchestration.settings import read_project
from warehouse.identity import identity_of
from warehouse.registry import Registry

LOOK_S = 60
"""Seconds between two looks."""

PAUSES_S = (60.0, 600.0, 3_600.0, 6 * 3_600.0)
"""Between two attempts at the same days, seconds: an exchange may be in maintenance for hours."""

ATTEMPTS = len(PAUSES_S) + 1


def missing_days_sensor(places: Places) -> dg.SensorDefinition:
    """Return the sensor that asks for lost days."""

    @dg.sensor(
        name="missing_days",
        job_name=REFILL,
        minimum_interval_seconds=LOOK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Days that the checks `complete` miss, and all of history after the lake was begun again, are "
        f"filled from the source, one range of days at a time. After {ATTEMPTS} attempts at the same days a person is "
        "needed.",
    )
    def missing_days(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            project = read_project(places)
            why = _obstacle(places, project, context.instance) or _lost(places, project, context.instance)
        except TidemillError as error:
            return dg.SensorResult(skip_reason=str(error))
        if isinstance(why, str):
            return dg.SensorResult(skip_reason=why)
        tried: dict[str, list[float]] = json.loads(context.cursor or "{}")
        tried = {days: times for days, times in tried.items() if days in why}
        waits = []
        for days, reason in why.items():
            times = tried.setdefault(days, [])
            if len(times) >= ATTEMPTS:
                waits.append(f"{days}: {ATTEMPTS} runs did not fill it; see them, then reset this sensor's cursor")
            elif times and (left := times[-1] + PAUSES_S[len(times) - 1] - time.time()) > 0:
                waits.append(f"{days}: the next attempt is in {left:.0f} s")
            else:
                times.append(time.time())
                first, last = days.split("/")
                request = dg.RunRequest(tags={**range_tags(first, last), REASON: reason})
                return dg.SensorResult([request], cursor=json.dumps(tried))
        return dg.SensorResult(skip_reason="; ".join(waits) or "no day is missing", cursor=json.dumps(tried))

    return missing_days


def _obstacle(places: Places, project: Project, instance: dg.DagsterInstance) -> str:
    """Return why nothing is to be asked for now, nothing where there is no reason."""
    market = project.market
    if not market.tells_days:
        return f"{market.source} need not tell an old day again: days that were lost stay lost"
    with control_of(places) as control:
        if control is None or lines_without_version(control, places, project):
            return "history is filled for the first models"
    busy = any(run.job_name in {BOOTSTRAP, BACKFILL, TRAIN, REFILL} for run in runs_under_way(instance))
    return "history is just being filled" if busy else ""


def _lost(places: Places, project: Project, instance: dg.DagsterInstance) -> dict[str, str] | str:
    """Return the ranges of days to fill and why, or why that is not known."""
    judgement = _judgement(instance)
    if judgement is None:
        return "history is just being judged"
    judged, lost = judgement
    if began := _begun_again(places, project, judged):
        histories = [history_of(project, name) for name in project.instruments]
        first = min(date_of(history.start + 1) for history in histories)
        last = max(date_of(history.until) for history in histories)
        return {f"{first.isoformat()}/{last.isoformat()}": f"the lake was begun again at {began}, without its history"}
    if not judged:
        return f"no check `{COMPLETE}` has been evaluated yet; the schedule `hourly` does so"
    return lost


def _begun_again(places: Places, project: Project, judged: float) -> str:
    """Return when the lake was begun again behind the first model and not judged since (unix seconds), or nothing."""
    identity = identity_of(places.home)
    founded = identity.stores.get("lake") if identity is not None else None
    with control_of(places) as control:
        first = None if control is None else Registry(control, places.models).first(project.instruments[0])
    if founded is None or first is None or founded.at.timestamp() <= max(judged, first.created_at):
        return ""
    return founded.at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _judgement(instance: dg.DagsterInstance) -> tuple[float, dict[str, str]] | None:
    """Return when the tables were last judged, unix seconds (0: not all were), and the lost days and of what.

    None while a run is about to judge one, or ended before it could: the next evaluation says more.
    """
    at, lost = [], dict[str, str]()
    for table in TABLES:
        key = dg.AssetCheckKey(dg.AssetKey(table), COMPLETE)
        record = instance.get_latest_asset_check_evaluation_record(key)
        if record is None:
            at.append(0.0)
            continue
        if (evaluation := record.evaluation) is None:
            return None
        at.append(record.event.timestamp if record.event is not None else record.create_timestamp)
        said = evaluation.metadata.get(MISSING_DAYS)
        for days in said.value if said is not None and isinstance(said.value, list) else []:
            lost[str(days)] = f"{lost[str(days)]}, {table}" if str(days) in lost else f"days were lost: {table}"
    return min(at), lost
