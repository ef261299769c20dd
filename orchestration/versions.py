"""The sensor that records versions: those that trainers publish, those that decisions put in place, those refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.versions import (
    decision_event,
    part_of,
    recorded_decision,
    recorded_version,
    refusal_events,
    version_event,
    version_key,
)
from domain.config import Places
from domain.errors import TidemillError
from domain.health import market_clock
from domain.lines import instrument_of
from orchestration import ticks
from orchestration.looks import control_of
from orchestration.sensors import TICK_S
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry
from warehouse.roles import Cast, Roles
from warehouse.versions import Version

SAMPLE_S = 60.0
"""Between two versions of a line that become events: Dagster keeps events for good, the registry has them all."""

PAGE = 500


def versions_sensor(places: Places) -> dg.SensorDefinition:
    """Return the sensor that records published versions as events of their lines' assets."""

    @dg.sensor(
        name="versions",
        asset_selection=None,
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records first versions, and of later ones at most one a minute and line, with losses and skills; "
        "every promotion and rollback; and every version that a service refused to load, as an observation.",
    )
    def versions(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ticks.note(places, "versions", context.instance)
        seen: dict[str, Any] = {"id": 0, "refusal": 0, "decision": 0, "recorded": {}} | json.loads(
            context.cursor or "{}"
        )
        events: list[dg.AssetMaterialization | dg.AssetObservation]
        try:
            with control_of(places) as control:
                if control is None:
                    return dg.SkipReason("there is no control database yet")
                registry, roles = Registry(control, places.models), Roles(control)
                fresh = registry.since(seen["id"], PAGE)
                refused = registry.refusals.since(seen["refusal"], PAGE)
                decided = roles.since(seen["decision"], PAGE)
                lines = {version.line for version in fresh} | {refusal.line for refusal in refused}
                casts = roles.all({instrument_of(line) for line in lines})
                chosen = _sample(context.instance, fresh, seen["recorded"], casts)
                clock = market_clock(Heartbeats(control).beats()) if chosen or decided else 0
                events = [
                    *_version_events(registry, clock, chosen, casts),
                    *_decision_events(context.instance, registry, clock, decided),
                    *refusal_events(refused, casts),
                ]
        except TidemillError as error:
            return dg.SkipReason(str(error))
        for name, rows in (("id", fresh), ("refusal", refused), ("decision", decided)):
            seen[name] = max((row.id for row in rows), default=seen[name])
        said = ", ".join(event.description or "" for event in events) or "nothing new"
        return dg.SensorResult(asset_events=events, skip_reason=f"recorded: {said}", cursor=json.dumps(seen))

    return versions


def _sample(
    instance: dg.DagsterInstance, fresh: Sequence[Version], recorded: dict[str, float], casts: Mapping[str, Cast]
) -> list[Version]:
    """Choose the versions to record, noting them in ``recorded`` (creation time of the last one, by asset).

    The cursor may be older than the events, as after a kill between the two, or reset by a person. So the last word is
    the instance's: what it has of an asset is not recorded again, and nothing behind it is forgotten.
    """
    chosen: list[Version] = []
    known: dict[str, int] = {}
    for version in fresh:
        key = _key_of(version, casts)
        asset = key.to_user_string()
        if not _is_due(version, recorded, asset):
            continue
        if asset not in known:
            known[asset], created_at = recorded_version(instance, key)
            recorded[asset] = max(created_at, recorded.get(asset, 0.0))
        if version.number > known[asset] and _is_due(version, recorded, asset):
            chosen.append(version)
            known[asset], recorded[asset] = version.number, version.created_at
    return chosen


def _is_due(version: Version, recorded: dict[str, float], asset: str) -> bool:
    return version.kind != "update" or version.created_at - recorded.get(asset, 0.0) >= SAMPLE_S


def _key_of(version: Version, casts: Mapping[str, Cast]) -> dg.AssetKey:
    instrument = instrument_of(version.line)
    return version_key(instrument, part_of(casts[instrument], version.line))


def _version_events(
    registry: Registry, clock: int, chosen: Sequence[Version], casts: Mapping[str, Cast]
) -> list[dg.AssetMaterialization]:
    events = []
    for version in chosen:
        instrument = instrument_of(version.line)
        parent = None if version.parent is None else registry.find(instrument, version.parent)
        events.append(version_event(version, parent, clock, part_of(casts[instrument], version.line)))
    return events


def _decision_events(
    instance: dg.DagsterInstance, registry: Registry, clock: int, decided: Sequence[Cast]
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    known = {name: recorded_decision(instance, name) for name in {cast.instrument for cast in decided}}
    for cast in decided:
        held = None if cast.held is None else registry.find(cast.instrument, cast.held)
        version = held or registry.newest(cast.champion)
        if cast.id > known[cast.instrument] and version is not None:
            yield decision_event(cast, version, clock)
