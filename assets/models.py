"""Models, recorded: the first version of each instrument's line, trained from the lake."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from assets import plots
from assets.partitions import History, date_of, history_of, text_of
from assets.resources import Mill
from assets.versions import Scores, line_name, score_metadata, skills, version_metadata
from domain.events import NANOS_PER_SECOND
from domain.services import INITIAL_MODEL

INITIAL = dg.AssetKey(INITIAL_MODEL)

INITIAL_DESCRIPTION = """The first version of each instrument's models, trained on all of history in the order in which
it could be known: every example is predicted before it is learned, and that is its score.

Its watermark is the **seam**: the stream begins behind it, so nothing is learned twice and nothing is skipped. A line
that has versions keeps them: training again publishes nothing, for that would throw away what was learned since."""


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
            "simulated": project.market.simulated,
            "market": mill.market,
        }
        compared: dict[str, dict[str, float]] = {}
        scores: dict[str, Scores] = {}
        with mill.lake() as lake, mill.control() as control:
            registry = Registry(control, mill.places.models, model_key(mill.places))
            for instrument in project.instruments:
                history = history_of(project, instrument)
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
                for target, against in skills(trained.scores, version.champions).items():
                    compared[f"{target}\n{instrument.partition(':')[2]}"] = against
        note = f"{mill.market}, skill while learning the history until {text_of(history.until)}"
        metadata |= {"losses": loss_table(scores), "skill": dg.MetadataValue.md(plots.skills(compared, note))}
        return dg.MaterializeResult(metadata=metadata)

    return initial_model


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


def _reporter(context: dg.AssetExecutionContext, instrument: str) -> Callable[[float], None]:
    """Return a listener that logs each quarter of the way once."""
    logged = 0

    def report(share: float) -> None:
        nonlocal logged
        if (quarter := int(4 * share)) > logged:
            logged = quarter
            context.log.info("%s: %d %% of history learned", instrument, 25 * quarter)

    return report
