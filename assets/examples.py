"""Examples, recorded: vectors with the answers that the market gave one horizon later."""

from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

from assets import plots
from assets.history import fill, show
from assets.resources import Mill

if TYPE_CHECKING:
    from assets.backfill import Written
    from warehouse.lake import Lake

DESCRIPTION = """A feature vector together with what then happened within the horizon: the change of price (basis
points), its direction, and the logarithm of realised volatility. This is what models learn from.

A day holds the examples whose answer became **known** in it: nobody could have learned them before. The direction is
empty where the price did not move."""


def examples_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return asset ``examples``."""

    @dg.asset(
        name="examples",
        deps=["features", "bars"],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="history",
        kinds={"duckdb"},
        description=DESCRIPTION,
    )
    def examples(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult[None]:
        from assets.backfill import write_examples
        from domain.features import TARGETS

        def write(lake: "Lake", instrument: str, start: int, end: int) -> "Written":
            return write_examples(lake, mill.project, instrument, start, end, context.run.run_id)

        filled = fill(context, mill, "examples", write)
        samples = {name: np.concatenate(pieces) for name, pieces in filled.sample.items()}
        picture = (
            plots.histograms(samples, TARGETS, f"{mill.market}, {mill.project.horizon_s} s ahead") if samples else ""
        )
        show(context, "targets", picture)
        return dg.MaterializeResult(metadata=filled.metadata())

    return examples
