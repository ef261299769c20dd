"""Whether history is whole: on every closed UTC day each row that must be there, and the days that lost some, named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

from assets.history import Table, ends_of, pieces
from assets.partitions import date_of, history_of
from assets.resources import Mill
from assets.verdicts import ERROR, WARN, unjudged, verdict
from domain.events import NANOS_PER_DAY

if TYPE_CHECKING:
    from warehouse.lake import Lake

COMPLETE = "complete"
TABLES: tuple[Table, ...] = ("bars", "features", "examples")

MISSING_DAYS = "missing_days"
"""In the check's metadata: the days that lost rows, as ranges ``FIRST/LAST``."""


@dataclass(frozen=True)
class Lack:
    """A day that has fewer rows of an instrument than it must have.

    Attributes
    ----------
    absent, rows : rows that are not there, and those that are
    """

    day: date
    instrument: str
    absent: int
    rows: int


def complete(table: Table) -> dg.AssetChecksDefinition:
    """Return a table's check ``complete``."""

    @dg.asset_check(
        asset=table,
        name=COMPLETE,
        description="Every closed UTC day since the beginning of history has each row that must be there: a bar at "
        "every place of the grid, vectors and examples wherever the bars allow one. A day that has all that its last "
        "materialization wrote is whole: the source tells no more of it. Others have lost rows, and the sensor "
        "`missing_days` has them filled again, where the source tells an old day again.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from warehouse.features import span

        with mill.lake() as lake:
            if not any(span(lake, "bars", name) for name in mill.project.instruments) and not _filled(context.instance):
                return unjudged("no history was filled yet; run job backfill")
            lacks = list(_lacks(lake, mill, table))
        lost = [lack for lack in lacks if not _as_told(context.instance, table, lack)]
        days = ranges(lack.day for lack in lost)
        again = "" if mill.project.market.tells_days else f"; {mill.project.market.source} does not tell them again"
        faults = (
            [f"{table} of {', '.join(days)} lack {sum(lack.absent for lack in lost):,} rows{again}"] if lost else []
        )
        found = {MISSING_DAYS: dg.MetadataValue.json(days), "absent": sum(lack.absent for lack in lacks)}
        return verdict(faults, found, WARN if again else ERROR)

    return check


def ranges(days: Iterator[date] | Sequence[date]) -> list[str]:
    """Return days as ranges of neighbours, oldest first.

    >>> ranges([date(2025, 1, 2), date(2025, 1, 1), date(2025, 1, 2), date(2025, 1, 5)])
    ['2025-01-01/2025-01-02', '2025-01-05/2025-01-05']
    """
    found: list[list[date]] = []
    for day in sorted(set(days)):
        if found and day - found[-1][1] == timedelta(days=1):
            found[-1][1] = day
        else:
            found.append([day, day])
    return [f"{first.isoformat()}/{last.isoformat()}" for first, last in found]


def _lacks(lake: "Lake", mill: Mill, table: Table) -> Iterator[Lack]:
    from domain.due import due
    from domain.pipeline import lead
    from warehouse.features import read_times

    project = mill.project
    before = lead(project.horizon, project.interval) * project.interval
    for name, end in ends_of(mill, lake, table).items():
        for start, stop in pieces(
            history_of(project, name).start, end // NANOS_PER_DAY * NANOS_PER_DAY, project.interval
        ):
            bars = read_times(lake, "bars", name, start - before, stop)
            rows = bars[bars > start] if table == "bars" else read_times(lake, table, name, start, stop)
            absent = np.setdiff1d(due(table, bars, start, stop, project.horizon, project.interval), rows)
            day_of_rows = (rows - 1) // NANOS_PER_DAY
            for day, n in zip(*np.unique((absent - 1) // NANOS_PER_DAY, return_counts=True), strict=True):
                there = int((day_of_rows == day).sum())
                yield Lack(date_of(int(day) * NANOS_PER_DAY + 1), name, int(n), there)


def _as_told(instance: dg.DagsterInstance, table: Table, lack: Lack) -> bool:
    """Return whether the day has all that its last materialization could write."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(table), asset_partitions=[lack.day.isoformat()])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        event = record.asset_materialization
        written = event.metadata.get(f"rows {lack.instrument}") if event is not None else None
        return written is not None and isinstance(written.value, int) and written.value <= lack.rows
    return False


def _filled(instance: dg.DagsterInstance) -> bool:
    """Return whether history was ever filled: then bars that are not there have been lost."""
    return instance.get_latest_materialization_event(dg.AssetKey("bars")) is not None
