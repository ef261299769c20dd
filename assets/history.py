"""A run over days of history: one table filled for every instrument, a month at a time, and what there is to say of it.

A window never reaches past what the stream has landed, or past the seam where it has landed nothing: the rows behind
that are the lander's to write, and a row written by both would be there twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import numpy as np

from assets.partitions import INSTRUMENTS, date_of, history_of, text_of
from assets.resources import Mill
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, nanos_at
from domain.gaps import gaps_of, longest_run
from domain.tables import Floats, Ints
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET

if TYPE_CHECKING:
    from assets.backfill import Written
    from warehouse.lake import Lake

Table = Literal["bars", "features", "examples"]
Write = Callable[["Lake", str, int, int], "Written"]

MADE_FROM: dict[Table, tuple[str, ...]] = {
    "bars": (BARS,),
    "features": (BARS, FEATURES),
    "examples": (BARS, FEATURES, FEATURES_WITH_TARGET),
}
"""Topics whose landing bounds a table's window: its own, and those of the tables that it is computed from."""

PIECE_ROWS = 50_000
"""Written at once, about (whole days): bounds the memory of a run over years, and is where progress is reported."""

_HOUR = NANOS_PER_DAY // 24
_SAMPLE = 2_000


@dataclass(frozen=True)
class Day:
    """What a day holds of one instrument, read back.

    Attributes
    ----------
    rows, expected : rows there are, and places on the grid up to where the run wrote
    longest_absent : rows absent in a row, at most
    missing, longest_missing : bars without a trade, and how many in a row at most; None in other tables
    """

    rows: int
    expected: int
    longest_absent: int
    missing: int | None
    longest_missing: int | None


@dataclass
class Filled:
    """What a run wrote.

    Attributes
    ----------
    days : by day and instrument
    previous_rows, refused : rows that were there before; events that were late or off the grid
    snapshot : of the lake, just after
    until : how far each instrument was written, ns
    hours : per instrument, hours and the means of the table's columns in them: for looking
    sample : per instrument, some rows of the table's columns: for looking
    """

    days: dict[str, dict[str, Day]] = field(default_factory=lambda: defaultdict(dict))
    previous_rows: int = 0
    refused: int = 0
    snapshot: int = 0
    until: dict[str, int] = field(default_factory=dict)
    hours: dict[str, list[tuple[Ints, Floats]]] = field(default_factory=lambda: defaultdict(list))
    sample: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))

    @property
    def total(self) -> int:
        """Rows written in all."""
        return sum(held.rows for day in self.days.values() for held in day.values())

    def day(self, key: str, instruments: Sequence[str], interval: int) -> dict[str, Any]:
        """Return what Dagster shows of one day: counts of all instruments, and where it is long the longest gap."""
        held = self.days.get(key, {})
        minutes = interval / NANOS_PER_MINUTE
        found: dict[str, Any] = {
            "rows": sum(day.rows for day in held.values()),
            "expected": sum(day.expected for day in held.values()),
            **{f"rows {name}": held[name].rows if name in held else 0 for name in instruments},
            "longest_absent_min": minutes * max((day.longest_absent for day in held.values()), default=0),
        }
        if quiet := [day for day in held.values() if day.missing is not None]:
            found["missing"] = sum(day.missing or 0 for day in quiet)
            found["longest_missing_min"] = minutes * max(day.longest_missing or 0 for day in quiet)
        return found

    def metadata(self) -> dict[str, Any]:
        """Return what Dagster shows of every day that was written."""
        short = {name: text_of(until) for name, until in self.until.items()}
        return {
            "run_rows": self.total,
            "run_previous_rows": self.previous_rows,
            "snapshot": self.snapshot,
            "written_until": dg.MetadataValue.json(short),
        }


def fill(context: dg.AssetExecutionContext, mill: Mill, table: Table, write: Write) -> Filled:
    """Fill the run's days of a table, and note the number of rows on each day's materialization.

    Raises
    ------
    dagster.Failure
        When the market has not come as far as the first of the days.
    """
    window = context.partition_time_window
    first, last = nanos_at(window.start), nanos_at(window.end)
    filled, tagged = Filled(), context.run.tags.get(INSTRUMENTS, "").split()
    with mill.lake() as lake:
        ends = ends_of(mill, lake, table)
        if first >= max(ends.values()):
            raise dg.Failure(
                f"the market has come to {text_of(max(ends.values()))} in the lake, not yet to "
                f"{date_of(first + 1)}; choose earlier days, or wait",
                allow_retries=False,
            )
        for instrument in tagged or mill.project.instruments:
            begin, end = max(first, history_of(mill.project, instrument).start), min(last, ends[instrument])
            for start, stop in pieces(begin, end, mill.project.interval):
                written = write(lake, instrument, start, stop)
                filled.previous_rows += written.previous_rows
                filled.refused += written.refused
                filled.snapshot = written.snapshot
                _look(lake, mill.project.interval, table, instrument, (start, stop), filled)
                context.log.info("%s of %s: %d rows until %s", table, instrument, written.rows, text_of(stop))
            filled.until[instrument] = end
    for key in context.partition_keys:
        found = filled.day(key, tagged or mill.project.instruments, mill.project.interval)
        context.add_asset_metadata(found, partition_key=key)
    return filled


def show(context: dg.AssetExecutionContext, name: str, picture: str) -> None:
    """Put a run's picture on its newest day alone: a run may have hundreds, and each one is kept for good."""
    if picture:
        context.add_asset_metadata({name: dg.MetadataValue.md(picture)}, partition_key=context.partition_keys[-1])


def ends_of(mill: Mill, lake: Lake, table: Table) -> dict[str, int]:
    """Return per instrument how far a table may be written, ns: what has landed, or the seam before anything has."""
    from warehouse.landing import all_landed
    from warehouse.registry import Registry

    landed = all_landed(lake)
    with mill.control() as control:
        registry = Registry(control, mill.places.models)
        firsts = {name: registry.first(name) for name in mill.project.instruments}
    ends = {}
    for partition, name in enumerate(mill.project.instruments):
        first = firsts[name]
        seam = history_of(mill.project, name).until if first is None else first.watermark
        marks = [landed.get((topic, partition)) for topic in MADE_FROM[table]]
        ends[name] = min(seam if mark is None else mark.last_ts for mark in marks)
    return ends


def pieces(start: int, end: int, interval: int) -> Iterator[tuple[int, int]]:
    """Yield a window (ns) in pieces of whole days, each of about ``PIECE_ROWS`` intervals."""
    length = max(1, PIECE_ROWS * interval // NANOS_PER_DAY) * NANOS_PER_DAY
    while start < end:
        stop = min(end, (start // length + 1) * length)
        yield start, stop
        start = stop


def _look(lake: Lake, interval: int, table: Table, instrument: str, window: tuple[int, int], filled: Filled) -> None:
    """Read back what was written: days are counted and pictures drawn from what readers get."""
    from domain.bars import MISSING
    from warehouse.features import read_table

    rows: Any = read_table(lake, table, instrument, *window)
    ts = rows.available if table == "examples" else rows.ts
    values = rows.targets if table == "examples" else rows.values
    missing = values[:, MISSING] > 0.0 if table == "bars" else None
    for start in range(window[0] // NANOS_PER_DAY * NANOS_PER_DAY, window[1], NANOS_PER_DAY):
        after, until = max(start, window[0]), min(start + NANOS_PER_DAY, window[1])
        of = slice(*np.searchsorted(ts, [after, until], side="right"))
        found = gaps_of(ts[of], after, until, interval)
        quiet = (None, None) if missing is None else (int(missing[of].sum()), longest_run(missing[of]))
        filled.days[date_of(start + 1).isoformat()][instrument] = Day(found.rows, found.expected, found.longest, *quiet)
    if not len(ts):
        return
    hour, begins = np.unique((ts - 1) // _HOUR, return_index=True)
    means = np.add.reduceat(np.nan_to_num(values), begins) / np.diff(np.append(begins, len(ts)))[:, None]
    filled.hours[instrument].append((hour * _HOUR, means))
    filled.sample[instrument].append(values[:: max(1, len(ts) // _SAMPLE)])


def joined(hours: Sequence[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    """Return the pieces of an instrument's hours as one."""
    return np.concatenate([ts for ts, _ in hours]), np.concatenate([means for _, means in hours])
