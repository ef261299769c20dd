"""Feature vectors, recorded: what a model is asked about, computed from the lake's bars."""

from typing import TYPE_CHECKING

import dagster as dg

from assets import plots
from assets.history import fill, joined, show
from assets.resources import Mill

if TYPE_CHECKING:
    from assets.backfill import Written
    from warehouse.lake import Lake

DESCRIPTION = """Sixteen numbers a bar: past volatility over several windows, price ranges, the last return, volume, and
the time of day. Each is a pure function of the 241 bars up to and including its own, so it sees no future, and a
backfill gives the stream's rows bit for bit.

*Why finite memory*: whoever has the last 241 bars (a restarted service, a backfill of one day) has everything."""


def features_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return asset ``features``."""

    @dg.asset(
        name="features",
        deps=["bars"],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="history",
        kinds={"duckdb"},
        description=DESCRIPTION,
    )
    def features(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult[None]:
        from assets.backfill import write_features
        from domain.features import FEATURES

        def write(lake: "Lake", instrument: str, start: int, end: int) -> "Written":
            return write_features(lake, mill.project, instrument, start, end, context.run.run_id)

        filled = fill(context, mill, "features", write)
        hours = {name: joined(pieces) for name, pieces in filled.hours.items()}
        picture = plots.heat(hours, FEATURES, f"{mill.market}, hourly means in standard deviations") if hours else ""
        show(context, "vectors", picture)
        return dg.MaterializeResult(metadata=filled.metadata())

    return features
