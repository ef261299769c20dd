"""Sensors: they bring the system up, keep its services running, and record the versions that its trainers publish.

A tick is short and reads the control database and the supervisor's files only: no broker, no lake, no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.models import INITIAL, refusal_events, version_event
from assets.partitions import History, date_of
from assets.services import REASON, key_of
from domain.config import Places, Project
from domain.errors import TidemillError
from domain.health import Beat
from orchestration.deployment import STREAMS, Deployment
from orchestration.jobs import BOOTSTRAP, REDEPLOY, TRAIN, range_tags
from orchestration.runs import KILLED, runs_under_way
from orchestration.settings import read_project
from orchestration.tending import Look, Memory, ailment_of, judge
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry, Version

TICK_S = 3
"""Asked for; Dagster looks every 5 s."""

ATTEMPTS, BACK_OFF_S = 3, 60.0
"""Bootstraps tried before a person is needed, and the pause between them, seconds."""

SAMPLE_S = 60.0
"""Between two versions of a line that become events: Dagster keeps events for good, the registry has them all."""

PAGE = 500


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
        try:
            missing = lines_without_version(places, read_project(places.config))
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
        first, last = date_of(history.start + 1).isoformat(), date_of(history.until).isoformat()
        reason = f"no model yet: {', '.join(missing)}"
        request = dg.RunRequest(tags={**range_tags(first, last), REASON: reason})
        return dg.SensorResult([request], cursor=json.dumps([*tried, now]))

    return bootstrap


def health_sensor(places: Places) -> dg.SensorDefinition:
    """Return the sensor that redeploys services which should run and do not, or do not get on."""

    @dg.sensor(
        name="health",
        job_name=REDEPLOY,
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Redeploys services that are missing, died, fell silent, stopped progressing, or run an old "
        "configuration or old code; the run's tag says why. Gives up on one that three redeployments did not help.",
    )
    def health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            deployment = Deployment(places, read_project(places.config))
            if lines_without_version(places, deployment.project):
                return dg.SkipReason("not every line has a model yet")
            looks = look_at(deployment)
        except TidemillError as error:
            return dg.SkipReason(str(error))
        busy = {name for run in runs_under_way(context.instance) for name in STREAMS if _touches(run, name)}
        memories = {name: Memory.of(value) for name, value in json.loads(context.cursor or "{}").items()}
        today, now = deployment.fingerprint(), time.time()
        reasons: dict[str, str] = {}
        for name in STREAMS:
            memory = memories.setdefault(name, Memory())
            if name in busy:
                continue
            may_end = name == "ingest" and deployment.project.market.source == "recorded"
            ailment = ailment_of(looks[name], today, now, may_end=may_end)
            if judge(memory, looks[name], ailment, now) and ailment is not None:
                reasons[name] = ailment.words
        cursor = json.dumps({name: memory.plain() for name, memory in memories.items()})
        if not reasons:
            return dg.SensorResult(skip_reason=_summary(memories, busy), cursor=cursor)
        request = dg.RunRequest(
            asset_selection=[key_of(name) for name in reasons],
            tags={REASON: "; ".join(f"{name}: {words}" for name, words in reasons.items())},
        )
        return dg.SensorResult([request], cursor=cursor)

    return health


def versions_sensor(places: Places) -> dg.SensorDefinition:
    """Return the sensor that records published versions as events of their lines' assets."""

    @dg.sensor(
        name="versions",
        asset_selection=None,
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records first versions, and of later ones at most one a minute and line, with losses and skills; "
        "and every version that a service refused to load, as an observation.",
    )
    def versions(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen: dict[str, Any] = json.loads(context.cursor or '{"id": 0, "recorded": {}}')
        try:
            with _open(places) as control:
                if control is None:
                    return dg.SkipReason("there is no control database yet")
                registry = Registry(control, places.models)
                fresh = registry.since(seen["id"], PAGE)
                refused = registry.refusals.since(seen.get("refusal", 0), PAGE)
        except TidemillError as error:
            return dg.SkipReason(str(error))
        chosen = _sample(fresh, seen["recorded"])
        events: list[dg.AssetMaterialization | dg.AssetObservation]
        events = [*(version_event(version) for version in chosen), *refusal_events(refused)]
        if fresh:
            seen["id"] = fresh[-1].id
        if refused:
            seen["refusal"] = refused[-1].id
        said = ", ".join(event.description or "" for event in events) or "nothing new"
        return dg.SensorResult(asset_events=events, skip_reason=f"recorded: {said}", cursor=json.dumps(seen))

    return versions


def lines_without_version(places: Places, project: Project) -> list[str]:
    """Return the instruments that have no model; all of them while there is no control database."""
    with _open(places) as control:
        if control is None:
            return list(project.instruments)
        registry = Registry(control, places.models)
        return [name for name in project.instruments if registry.newest(name) is None]


def look_at(deployment: Deployment) -> dict[str, Look]:
    """Return how every service is."""
    beats: dict[str, Beat] = {}
    with _open(deployment.places) as control:
        for beat in Heartbeats(control).beats() if control is not None else []:
            if beat.service not in beats or beat.beat_at > beats[beat.service].beat_at:
                beats[beat.service] = beat
    looks = {}
    for name in STREAMS:
        status, spec = deployment.supervisor.status(name), deployment.supervisor.spec(name)
        looks[name] = Look(status, spec["meta"] if spec else {}, beats.get(name))
    return looks


@contextmanager
def _open(places: Places) -> Iterator[Control | None]:
    """Open the control database if there is one: a look creates nothing."""
    if not places.control_url and not (places.home / "control.sqlite").exists():
        yield None
        return
    with Control.open(places.control) as control:
        yield control


def _sample(fresh: Sequence[Version], recorded: dict[str, float]) -> list[Version]:
    """Choose the versions to record, noting them in ``recorded`` (creation time of the last one, by line)."""
    chosen = []
    for version in fresh:
        if version.kind == "initial" or version.created_at - recorded.get(version.line, 0.0) >= SAMPLE_S:
            chosen.append(version)
            recorded[version.line] = version.created_at
    return chosen


def _selects(run: dg.DagsterRun, key: dg.AssetKey) -> bool:
    return run.asset_selection is not None and key in run.asset_selection


def _touches(run: dg.DagsterRun, name: str) -> bool:
    if run.asset_selection is None:
        return run.job_name in {BOOTSTRAP, REDEPLOY}
    return key_of(name) in run.asset_selection


def _summary(memories: dict[str, Memory], busy: set[str]) -> str:
    given_up = [f"{name}: gave up, {memory.gave_up}" for name, memory in memories.items() if memory.gave_up]
    if given_up:
        return "; ".join(given_up) + ". Mend it and materialize the service"
    suspected = [f"{name}: {memory.suspected}" for name, memory in memories.items() if memory.suspected]
    if suspected:
        return "watching " + "; ".join(suspected)
    return f"being deployed: {', '.join(sorted(busy))}" if busy else "every service is well"
