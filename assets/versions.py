"""Versions, recorded: an external asset for each part that a line plays, and the events that tell of its versions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from domain.config import Project
from domain.events import NANOS_PER_SECOND
from domain.lines import BASELINES, FROZEN, instrument_of
from domain.services import INITIAL_MODEL

if TYPE_CHECKING:
    from warehouse.refusals import Refusal
    from warehouse.roles import Cast
    from warehouse.versions import Version

VERSIONS = "model_versions"

SHOWN = 20
"""Numbers named in a headline; the table has them all."""

VERSIONS_DESCRIPTION = """The versions of {line}'s {part}, as its trainer publishes them while it learns: a first one
from history, then at most one a minute is noted here (the registry has them all), and whatever job `promote` or
`rollback` decides. A version that a service refused to load (damaged, signed with another key, other predictions here)
is an *observation* that says why; an older one serves then.

*Plots* shows the loss over the stream so far, and the skill against yardsticks that know just as much. One of them is
the *frozen* first model: skill against it is what incremental learning is worth. `recent_loss` fades with time, and
`drift` says how near it is to a drift (1 is one, `drifts` counts them)."""

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]

Part = Literal["champion", "challenger"]

TRAINED_BY: dict[Part, str] = {"champion": "trainer", "challenger": "challenger"}

DECISION = "decision_id"
"""Metadata of an event: the decision that it records."""

_LOOK_BACK = 200
"""Events looked at for the newest decision: some hours of versions; a sensor records a decision within seconds."""

_TOLD = ("loss", "recent_loss", "n", "drift", "drifts")


def version_specs(project: Project) -> list[dg.AssetSpec]:
    """Return the external assets of the lines' versions: their events come from a sensor, as they are published."""
    return [
        dg.AssetSpec(
            version_key(instrument, part),
            deps=[dg.AssetKey(INITIAL_MODEL), dg.AssetKey(["services", trained_by])],
            group_name=VERSIONS,
            kinds={"river"},
            description=VERSIONS_DESCRIPTION.format(line=instrument, part=part),
        )
        for instrument in project.instruments
        for part, trained_by in TRAINED_BY.items()
    ]


def version_key(instrument: str, part: Part = "champion") -> dg.AssetKey:
    """Return the asset of the versions of an instrument's champion or challenger, so that each plot is of one line."""
    name = line_name(instrument)
    return dg.AssetKey([VERSIONS, name if part == "champion" else f"{name}_{part}"])


def part_of(cast: Cast, line: str) -> Part:
    """Return the part that a line plays; one that has just been published may not have been cast yet."""
    return "champion" if line == cast.champion else "challenger"


def line_name(instrument: str) -> str:
    """Return the instrument as Dagster allows names.

    >>> line_name("simulated:BTC-USD")
    'simulated_BTC_USD'
    """
    return re.sub(r"[^A-Za-z0-9]", "_", instrument)


def version_event(
    version: Version, parent: Version | None, clock: int, part: Part = "champion"
) -> dg.AssetMaterialization:
    """Return the event that records a version, with its losses and skills as numbers to plot.

    Parameters
    ----------
    part : that its line plays
    parent : the version that it grew from, None where there is none (any more)
    clock : how far the market has come, ns of event time; 0 when it has not begun
    """
    return dg.AssetMaterialization(
        version_key(instrument_of(version.line), part),
        description=f"{version.kind} version {version.number} of {version.line}",
        metadata={
            **version_metadata(version),
            **lineage_metadata(version, parent, clock),
            # The scores of the training window are of other questions: they get plots of their own.
            **{
                f"training_{name}" if version.kind == "initial" else name: value
                for name, value in score_metadata(version.metrics, version.champions).items()
            },
        },
        tags={"dagster/data_version": version.digest},
    )


def lineage_metadata(version: Version, parent: Version | None, clock: int) -> dict[str, Any]:
    """Return what a version grew from, and how old its knowledge was when it was recorded (``model_age_s``)."""
    known: dict[str, Any] = {"offsets": dg.MetadataValue.json(dict(version.offsets))}
    if version.parent is not None:
        known["parent"] = version.parent
    if parent is not None:
        known["n_learned_since_parent"] = version.n_learned - parent.n_learned
    if clock:
        # The featurizer beats once a second, so a version may know more than its last beat.
        known["model_age_s"] = max(0, clock - version.watermark) / NANOS_PER_SECOND
    return known


def decision_event(cast: Cast, version: Version, clock: int) -> dg.AssetMaterialization | dg.AssetObservation:
    """Return the event that records a decision: of the version that serves by it, or of the challenger it is about.

    Parameters
    ----------
    version : that serves by the decision
    clock : as of :func:`version_event`
    """
    said = {"decision": cast.action, DECISION: cast.id, "reason": cast.reason, "champion": cast.champion}
    words = f"{cast.action}: {cast.reason}" if cast.reason else cast.action
    if cast.action in {"challenge", "retire"}:
        more = {"challenger": cast.challenger} if cast.challenger else {}
        key = version_key(cast.instrument, "challenger")
        return dg.AssetObservation(key, description=f"{cast.instrument}, {words}", metadata={**said, **more})
    event = version_event(version, None, clock)
    return dg.AssetMaterialization(
        version_key(cast.instrument),
        description=f"{words}; version {version.number} of {version.line} serves",
        metadata={**event.metadata, **said},
        tags=event.tags,
    )


def recorded_decision(instance: dg.DagsterInstance, instrument: str) -> int:
    """Return the id of the newest decision about an instrument that was recorded, 0 before any."""
    made = instance.fetch_materializations(version_key(instrument), limit=_LOOK_BACK).records
    seen = instance.fetch_observations(version_key(instrument, "challenger"), limit=_LOOK_BACK).records
    events = [*(record.asset_materialization for record in made), *(record.asset_observation for record in seen)]
    ids = (event.metadata[DECISION].value for event in events if event is not None and DECISION in event.metadata)
    return max((number for number in ids if isinstance(number, int)), default=0)


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> tuple[int, float]:
    """Return number and creation time (unix seconds) of the asset's version recorded last; zeros before any."""
    entry = instance.get_latest_materialization_event(key)
    event = entry.asset_materialization if entry is not None else None
    if event is None:
        return 0, 0.0
    number, published = event.metadata["version"].value, event.metadata["published"].value
    if not isinstance(number, int) or not isinstance(published, float):
        return 0, 0.0
    return number, published


def refusal_events(refused: Sequence[Refusal], casts: Mapping[str, Cast]) -> list[dg.AssetObservation]:
    """Return an observation a line of the versions that were not loaded: which, why, by whom and when."""
    by_line: dict[str, list[Refusal]] = {}
    for refusal in refused:
        by_line.setdefault(refusal.line, []).append(refusal)
    events = []
    for line, some in by_line.items():
        cast = casts.get(instrument_of(line))
        rows = [
            dg.TableRecord({"version": r.number, "by": r.refused_by, "at": _utc(r.refused_at), "reason": r.reason})
            for r in some
        ]
        numbers = ", ".join(str(r.number) for r in some[:SHOWN]) + (" ..." if len(some) > SHOWN else "")
        metadata: dict[str, Any] = {
            "refused": dg.MetadataValue.table(rows),
            "refused_versions": len(some),
            "reason": some[-1].reason,
        }
        events.append(
            dg.AssetObservation(
                version_key(instrument_of(line), part_of(cast, line) if cast else "champion"),
                description=f"refused version{'s' if len(some) > 1 else ''} {numbers} of {line}",
                metadata=metadata,
            )
        )
    return events


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def version_metadata(version: Version) -> dict[str, Any]:
    """Return what a version is, for people and plots."""
    known: dict[str, Any] = {
        "version": version.number,
        "line": version.line,
        "n_learned": version.n_learned,
        "watermark": dg.MetadataValue.timestamp(version.watermark / NANOS_PER_SECOND),
        "published": dg.MetadataValue.timestamp(version.created_at),
        "digest": version.digest,
        "size_kb": version.size / 1000,
    }
    return known | ({} if version.snapshot is None else {"snapshot": version.snapshot})


def score_metadata(scores: Scores, champions: Mapping[str, str]) -> dict[str, float]:
    """Return the champions' losses, drift, and skill against every yardstick, as flat finite numbers.

    ``drift_*`` is how near a champion is to a drift (1 is one), ``drifts_*`` how many there were since training.
    """
    flat: dict[str, float] = {}
    for target, members in scores.items():
        champion = members.get(champions.get(target, ""), {})
        flat |= {f"{name}_{target}": champion[name] for name in _TOLD if name in champion}
    for target, against in skills(scores, champions).items():
        flat |= {f"skill_{target}_vs_{name}": value for name, value in against.items()}
    return {name: value for name, value in flat.items() if value is not None and math.isfinite(value)}


def skills(scores: Scores, champions: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return ``{target: {yardstick: 1 - loss / its loss}}``."""
    out: dict[str, dict[str, float]] = {}
    for target, members in scores.items():
        loss = members.get(champions.get(target, ""), {}).get("loss")
        losses = {name: score.get("loss") for name, score in members.items() if name in (*BASELINES, FROZEN)}
        if loss is not None:
            out[target] = {name: 1.0 - loss / other for name, other in losses.items() if other}
    return out
