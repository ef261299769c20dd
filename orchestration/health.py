"""The health sensor: it redeploys services that should run and do not, or do not get on, and says whom it gave up.

A tick is short and reads the control database and the supervisor's files only: no broker, no lake, no model.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.services import DETECTED, REASON, REQUESTED, key_of, observation, refusal_tag, tended_event
from domain.config import Places
from domain.errors import TidemillError
from domain.services import FLOW, SERVICES
from orchestration import ticks
from orchestration.deployment import Deployment
from orchestration.jobs import BOOTSTRAP, REDEPLOY
from orchestration.lives import Life
from orchestration.looks import challenged, control_of, lines_without_version, look_at
from orchestration.runs import runs_under_way
from orchestration.sensors import TICK_S
from orchestration.settings import read_project
from orchestration.tending import Look, Memory, ailment_of, changes, cure_of, judge
from warehouse.control import writer_at

OPTIONAL = [name for name, role in FLOW.items() if role.optional]
"""Left alone while there is nothing for them to do."""


def health_sensor(places: Places) -> dg.SensorDefinition:
    """Return the sensor that tends the services."""

    @dg.sensor(
        name="health",
        job_name=REDEPLOY,
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Redeploys services that are missing, died, fell silent, stopped progressing, owe a version, or "
        "run an old configuration or old code; the run's tag says why. Gives up on one that three redeployments did "
        "not help: then its check `tended` is red. Once an hour it notes how each has fared.",
    )
    def health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ticks.note(places, "health", context.instance)
        try:
            deployment = Deployment(places, read_project(places))
            with control_of(places) as control:
                if lines_without_version(control, places, deployment.project):
                    return dg.SkipReason("not every line has a model yet")
                looks = look_at(deployment, control)
                idle = [] if control is None or challenged(control, deployment.project) else OPTIONAL
        except TidemillError as error:
            return dg.SkipReason(str(error))
        if (writer := writer_at(places.control)) is not None and writer.stopped:
            # No heartbeat gets through: silence says nothing until the shim has ended that process.
            return dg.SkipReason(f"the control database is locked by {writer}")
        round_ = _Round.of(context.cursor)
        round_.go(context.instance, deployment, {name: look for name, look in looks.items() if name not in idle})
        return round_.result()

    return health


@dataclass
class _Round:
    """One round of looks: what is remembered, and what comes of it.

    Attributes
    ----------
    asked : why each service is to be redeployed, and when that was first seen, unix seconds
    """

    memories: dict[str, Memory]
    lives: dict[str, Life]
    busy: list[str] = field(default_factory=list)
    asked: dict[str, tuple[str, float]] = field(default_factory=dict)
    events: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = field(default_factory=list)
    now: float = field(default_factory=time.time)

    @classmethod
    def of(cls, cursor: str | None) -> _Round:
        """Return a round that goes on from a cursor."""
        known: dict[str, Any] = json.loads(cursor or "{}")
        memories, lives = known.get("memories", {}), known.get("lives", {})
        return cls(
            {name: Memory.of(memories.get(name, {})) for name in SERVICES},
            {name: Life.of(lives.get(name, {})) for name in SERVICES},
        )

    def go(self, instance: dg.DagsterInstance, deployment: Deployment, looks: dict[str, Look]) -> None:
        """Judge every service that no run is just deploying."""
        runs = runs_under_way(instance)
        self.busy = [name for name in SERVICES if any(_touches(run, name) for run in runs)]
        for name, look in looks.items():
            if figures := self.lives[name].look(look, self.now):
                self.events.append(observation(name, figures))
            if name not in self.busy:
                self._judge(name, look, instance, deployment)

    def _judge(self, name: str, look: Look, instance: dg.DagsterInstance, deployment: Deployment) -> None:
        memory, today = self.memories[name], deployment.fingerprint(name)
        changed = changes(look.meta, today) if look.status.phase == "running" else ""
        run = _refusing_run(instance, name, cure_of(today)) if changed else None
        memory.refused = f"{changed}, its rehearsal failed in run {run}: the old process goes on" if run else ""
        may_end = name == "ingest" and deployment.project.market.source == "recorded"
        ailment = ailment_of(look, today, self.now, may_end=may_end, refused=run is not None)
        first = memory.since or self.now
        if judge(memory, look, ailment, self.now) and ailment is not None:
            self.asked[name] = ailment.words, first
            memory.since = None
        if memory.alarm != (memory.told or "") or (memory.told is None and memory.healthy_since):
            self.events.append(tended_event(name, memory.alarm))
            memory.told = memory.alarm

    def result(self) -> dg.SensorResult:
        """Return what Dagster is to do and to remember."""
        kept = {
            "memories": {name: memory.plain() for name, memory in self.memories.items()},
            "lives": {name: life.plain() for name, life in self.lives.items()},
        }
        if not self.asked:
            return dg.SensorResult(
                asset_events=self.events, skip_reason=_summary(self.memories, self.busy), cursor=json.dumps(kept)
            )
        tags = {
            REASON: "; ".join(f"{name}: {words}" for name, (words, _) in self.asked.items()),
            DETECTED: json.dumps({name: round(first, 3) for name, (_, first) in self.asked.items()}),
            REQUESTED: f"{self.now:.3f}",
        }
        request = dg.RunRequest(asset_selection=[key_of(name) for name in self.asked], tags=tags)
        return dg.SensorResult([request], asset_events=self.events, cursor=json.dumps(kept))


def _refusing_run(instance: dg.DagsterInstance, name: str, cure: str) -> str | None:
    """Return the first part of the id of a run that rehearsed this very code and configuration in vain."""
    for run in instance.get_runs(dg.RunsFilter(tags={refusal_tag(name): cure}), limit=1):
        return run.run_id[:8]
    return None


def _touches(run: dg.DagsterRun, name: str) -> bool:
    if run.asset_selection is None:
        return run.job_name in {BOOTSTRAP, REDEPLOY}
    return key_of(name) in run.asset_selection


def _summary(memories: dict[str, Memory], busy: list[str]) -> str:
    given_up = [f"{name}: gave up, {memory.gave_up}" for name, memory in memories.items() if memory.gave_up]
    if given_up:
        return "; ".join(given_up) + ". Mend it and materialize the service"
    suspected = [f"{name}: {memory.suspected}" for name, memory in memories.items() if memory.suspected]
    if suspected:
        return "watching " + "; ".join(suspected)
    if busy:
        return f"being deployed: {', '.join(busy)}"
    refused = [f"{name}: {memory.refused}" for name, memory in memories.items() if memory.refused]
    return "; ".join(refused) + ". Mend it, or materialize the service" if refused else "every service is well"
