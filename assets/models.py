"""Models, recorded: the first version of each line, trained from the lake, and every later one as it is published."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import plots
from assets.partitions import History, date_of, history_of, text_of
from assets.resources import Mill
from domain.config import Project
from domain.events import NANOS_PER_SECOND
from domain.lines import BASELINES, FROZEN

if TYPE_CHECKING:
    from warehouse.refusals import Refusal
    from warehouse.registry import Version

INITIAL = dg.AssetKey("initial_model")
VERSIONS = "model_versions"

SHOWN = 20
"""Numbers named in a headline; the table has them all."""

INITIAL_DESCRIPTION = """The first version of each instrument's models, trained on all of history in the order in which
it could be known: every example is predicted before it is learned, and that is its score.

Its watermark is the **seam**: the stream begins behind it, so nothing is learned twice and nothing is skipped. A line
that has versions keeps them: training again publishes nothing, for that would throw away what was learned since."""

VERSIONS_DESCRIPTION = """The versions of {line}, as its trainer publishes them while it learns: a first one from
history, then at most one a minute is noted here (the registry has them all). A version that a service refused to load
(damaged, signed with another key, other predictions here) is an *observation* that says why; an older one serves then.

*Plots* shows the loss over the stream so far, and the skill against yardsticks that know just as much. One of them is
the *frozen* first model: skill against it is what incremental learning is worth."""

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]

_TOLD = ("loss", "recent_loss", "n", "drift", "drifts")


def initial_model_asset(days: dg.DailyPartitionsDefinition, history: History) -> dg.AssetsDefinition:
    """Return asset ``initial_model``, made from the days of history alone: later ones do not make it stale."""
    last = date_of(history.until).isoformat()
    before = dg.SpecificPartitionsPartitionMapping([key for key in days.get_partition_keys() if key <= last])

    @dg.asset(
        key=INITIAL,
        deps=[dg.AssetDep(name, partition_mapping=before) for name in ("features", "examples")],
        group_name="models",
        kinds={"river", "python"},
        description=INITIAL_DESCRIPTION,
    )
    def initial_model(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult[None]:
        from assets.training import train_initial
        from warehouse.features import count
        from warehouse.keys import model_key
        from warehouse.registry import Registry

        project, history = mill.project, history_of(mill.project)
        metadata: dict[str, Any] = {
            "trained_until": dg.MetadataValue.timestamp(history.until / NANOS_PER_SECOND),
            "simulated": project.market.source == "simulated",
        }
        compared: dict[str, dict[str, float]] = {}
        scores: dict[str, Scores] = {}
        with mill.lake() as lake, mill.control() as control:
            registry = Registry(control, mill.places.models, model_key(mill.places))
            for instrument in project.instruments:
                if not count(lake, "examples", instrument, history.start, history.until):
                    raise dg.Failure(
                        f"{instrument} has no example until {text_of(history.until)}; run job backfill over its days",
                        allow_retries=False,
                    )
                trained = train_initial(
                    lake, control, registry, project, instrument, history.start, history.until,
                    _reporter(context, instrument),
                )  # fmt: skip
                version = trained.version
                said = "published" if trained.published else "published nothing: the line has a version already"
                context.log.info("%s: %s; version %d, %d learned", instrument, said, version.number, version.n_learned)
                line = line_name(instrument)
                metadata[f"{line} outcome"] = said
                metadata |= {f"{line} {name}": value for name, value in version_metadata(version).items()}
                told = score_metadata(trained.scores, version.champions)
                metadata |= {f"{line} {name}": value for name, value in told.items()}
                scores[instrument] = trained.scores
                for target, against in _skills(trained.scores, version.champions).items():
                    compared[f"{target}\n{instrument.partition(':')[2]}"] = against
        note = f"{mill.market}, skill while learning the history until {text_of(history.until)}"
        metadata |= {"losses": loss_table(scores), "skill": dg.MetadataValue.md(plots.skills(compared, note))}
        return dg.MaterializeResult(metadata=metadata)

    return initial_model


def version_specs(project: Project) -> list[dg.AssetSpec]:
    """Return the external assets of the lines' versions: their events come from a sensor, as they are published."""
    return [
        dg.AssetSpec(
            version_key(instrument),
            deps=[INITIAL, dg.AssetKey(["services", "trainer"])],
            group_name=VERSIONS,
            kinds={"river"},
            description=VERSIONS_DESCRIPTION.format(line=instrument),
        )
        for instrument in project.instruments
    ]


def version_key(instrument: str) -> dg.AssetKey:
    """Return the asset of a line's versions: one a line, so that each plot is of one line."""
    return dg.AssetKey([VERSIONS, line_name(instrument)])


def line_name(instrument: str) -> str:
    """Return the instrument as Dagster allows names.

    >>> line_name("simulated:BTC-USD")
    'simulated_BTC_USD'
    """
    return re.sub(r"[^A-Za-z0-9]", "_", instrument)


def version_event(version: "Version") -> dg.AssetMaterialization:
    """Return the event that records a version, with its losses and skills as numbers to plot."""
    return dg.AssetMaterialization(
        version_key(version.line),
        description=f"{version.kind} version {version.number} of {version.line}",
        metadata={**version_metadata(version), **score_metadata(version.metrics, version.champions)},
        tags={"dagster/data_version": version.digest},
    )


def refusal_events(refused: Sequence["Refusal"]) -> list[dg.AssetObservation]:
    """Return an observation a line of the versions that were not loaded: which, why, by whom and when."""
    by_line: dict[str, list[Refusal]] = {}
    for refusal in refused:
        by_line.setdefault(refusal.line, []).append(refusal)
    events = []
    for line, some in by_line.items():
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
                version_key(line),
                description=f"refused version{'s' if len(some) > 1 else ''} {numbers} of {line}",
                metadata=metadata,
            )
        )
    return events


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def version_metadata(version: "Version") -> dict[str, Any]:
    """Return what a version is, for people and plots."""
    known: dict[str, Any] = {
        "version": version.number,
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
    for target, against in _skills(scores, champions).items():
        flat |= {f"skill_{target}_vs_{name}": value for name, value in against.items()}
    return {name: value for name, value in flat.items() if value is not None and math.isfinite(value)}


def loss_table(scores: Mapping[str, Scores]) -> dg.TableMetadataValue:
    """Return every member's loss, a row for each line and target: models first, then the yardsticks."""
    import pandas as pd

    rows = [
        {"line": line, "target": target, "member": member, "loss": score["loss"]}
        for line, targets in scores.items()
        for target, members in targets.items()
        for member, score in members.items()
    ]
    order = list(dict.fromkeys(row["member"] for row in rows))
    wide = pd.DataFrame(rows).pivot_table(index=["line", "target"], columns="member", values="loss")[order]
    text = wide.map(lambda loss: "" if pd.isna(loss) else f"{loss:.5g}").reset_index()
    return dg.MetadataValue.table([dg.TableRecord(row) for row in text.to_dict("records")])


def _skills(scores: Scores, champions: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return ``{target: {yardstick: 1 - loss / its loss}}``."""
    out: dict[str, dict[str, float]] = {}
    for target, members in scores.items():
        loss = members.get(champions.get(target, ""), {}).get("loss")
        losses = {name: score.get("loss") for name, score in members.items() if name in (*BASELINES, FROZEN)}
        if loss is not None:
            out[target] = {name: 1.0 - loss / other for name, other in losses.items() if other}
    return out


def _reporter(context: dg.AssetExecutionContext, instrument: str) -> Callable[[float], None]:
    """Return a listener that logs each quarter of the way once."""
    logged = 0

    def report(share: float) -> None:
        nonlocal logged
        if (quarter := int(4 * share)) > logged:
            logged = quarter
            context.log.info("%s: %d %% of history learned", instrument, 25 * quarter)

    return report
