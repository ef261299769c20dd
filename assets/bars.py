"""Bars, recorded: what the market did, interval by interval, from the source's history."""

from typing import TYPE_CHECKING

import dagster as dg

from assets import plots
from assets.history import fill, joined, show
from assets.resources import Mill

if TYPE_CHECKING:
    from assets.backfill import Written
    from warehouse.lake import Lake

CLOSE, MISSING = 3, 9  # of domain.bars.BAR_COLUMNS, which is compiled code and not loaded for a name

DESCRIPTION = """Open, high, low, close and volume of every interval, gap-free: an interval without a trade repeats the
last close and is flagged *missing*. A day holds the bars that **end** in it, UTC, event time.

Filled from the market's history by the same compiled steps that build bars in the stream, so both give the same rows,
bit for bit. Materializing a day again replaces it whole."""


def bars_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return asset ``bars``."""

    @dg.asset(
        name="bars",
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="history",
        kinds={"duckdb"},
        description=DESCRIPTION,
    )
    def bars(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult[None]:
        from assets.backfill import write_bars

        source = mill.source()
        shares: list[tuple[int, float]] = []

        def write(lake: "Lake", instrument: str, start: int, end: int) -> "Written":
            written = write_bars(lake, source, mill.project, instrument, start, end, context.run.run_id)
            shares.append((written.rows, written.missing))
            return written

        filled = fill(context, mill, "bars", write)
        hours = {name: joined(pieces) for name, pieces in filled.hours.items()}
        panels = [(CLOSE, "close, start = 100"), (MISSING, "missing share")]
        picture = plots.lines(hours, panels, f"{mill.market}, hourly means") if hours else ""
        missing = sum(n * share for n, share in shares) / max(1, sum(n for n, _ in shares))
        show(context, "closes", picture)
        return dg.MaterializeResult(
            metadata={
                **filled.metadata(),
                "missing_share": missing,
                "refused": filled.refused,
                "simulated": source.simulated,
                "market": mill.market,
            }
        )

    return bars
