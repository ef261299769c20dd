"""Batch work on history: bars, vectors and examples of a window, by the same compiled steps as the stream.

Every function replaces its window whole, so it can be run again at any time, beside the live services.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from domain.bars import BAR_COLUMNS, CLOSE, MISSING, TAKEN, BarState, add_candles, add_trades, close_until
from domain.config import Project
from domain.errors import BadState
from domain.features import examples, vectors
from domain.pipeline import lead
from domain.tables import BarTable, TradeTable
from markets.source import Source
from warehouse.features import newest_bar, read_table, replace_window
from warehouse.lake import Lake
from warehouse.tables import bars_to_rows, examples_to_rows, vectors_to_rows


@dataclass(frozen=True)
class Written:
    """What a backfill wrote for one instrument.

    Attributes
    ----------
    rows, previous_rows : rows now in the window, and before
    refused : events that were late or off the grid
    missing : share of bars without a trade, 0 where there are no bars
    snapshot : of the lake, just after
    """

    rows: int
    previous_rows: int
    snapshot: int
    refused: int = 0
    missing: float = 0.0


def write_bars(
    lake: Lake, source: Source, project: Project, instrument: str, start: int, end: int, run_id: str
) -> Written:
    """Backfill the bars that end in ``(start, end]`` (ns) from the source's history."""
    bars, refused = _history(lake, source, project, instrument, start, end)
    done = replace_window(lake, "bars", instrument, start, end, bars_to_rows(instrument, bars, "backfill"), run_id)
    missing = float(bars.values[:, MISSING].mean()) if len(bars) else 0.0
    return Written(done.rows, done.previous_rows, done.snapshot, refused, missing)


def write_features(lake: Lake, project: Project, instrument: str, start: int, end: int, run_id: str) -> Written:
    """Backfill the vectors of ``(start, end]`` (ns) from the lake's bars."""
    bars = _bars(lake, project, instrument, start, end)
    table = vectors(bars, start, project.interval)
    rows = vectors_to_rows(instrument, table, "backfill")
    done = replace_window(lake, "features", instrument, start, end, rows, run_id)
    return Written(done.rows, done.previous_rows, done.snapshot)


def write_examples(lake: Lake, project: Project, instrument: str, start: int, end: int, run_id: str) -> Written:
    """Backfill the examples that became available in ``(start, end]`` (ns) from the lake's vectors and bars."""
    bars = _bars(lake, project, instrument, start, end)
    asked = read_table(lake, "features", instrument, start - project.horizon, end)
    table = examples(bars, asked, start, project.horizon, project.interval)
    rows = examples_to_rows(instrument, table, project.horizon_s, "backfill")
    done = replace_window(lake, "examples", instrument, start, end, rows, run_id)
    return Written(done.rows, done.previous_rows, done.snapshot)


def _bars(lake: Lake, project: Project, instrument: str, start: int, end: int) -> BarTable:
    before = lead(project.horizon, project.interval) * project.interval
    return read_table(lake, "bars", instrument, start - before, end)


def _history(
    lake: Lake, source: Source, project: Project, instrument: str, start: int, end: int
) -> tuple[BarTable, int]:
    """Return the gap-filled bars of a window, going on from the lake's last bar before it."""
    interval, lateness = project.interval, project.lateness if source.interval is None else 0
    if source.interval is not None and source.interval != interval:
        raise BadState(
            f"the source's candles last {source.interval / 1e9:g} s, 'interval' is {interval / 1e9:g} s; align them"
        )
    state = _state_at(lake, source, instrument, start, interval, lateness)
    parts = [BarTable(np.empty(0, np.int64), np.empty((0, len(BAR_COLUMNS))))]
    refused = 0
    for bars, bad in _steps(state, source.history(instrument, start, end), interval, lateness):
        parts.append(bars)
        refused += bad
    parts.append(close_until(state, end, interval))
    return BarTable(np.concatenate([b.ts for b in parts]), np.concatenate([b.values for b in parts])), refused


def _state_at(lake: Lake, source: Source, instrument: str, start: int, interval: int, lateness: int) -> BarState:
    """Return the state just after ``start``, as if all before it had been done in one piece."""
    last = read_table(lake, "bars", instrument, start - interval, start)
    if len(last) and not last.values[-1, MISSING]:
        return BarState.after(start, float(last.values[-1, CLOSE]), interval, lateness)
    found = newest_bar(lake, instrument, start)
    if found is None:
        return BarState.empty(interval, lateness)
    # The window begins in a gap: how long it is by now, and who has voted to end it, only its beginning can tell.
    ts, close = found
    state = BarState.after(ts, close, interval, lateness)
    for _ in _steps(state, source.history(instrument, ts, start), interval, lateness):
        pass
    close_until(state, start, interval)
    return state


def _steps(
    state: BarState, chunks: Iterator[TradeTable] | Iterator[BarTable], interval: int, lateness: int
) -> Iterator[tuple[BarTable, int]]:
    for chunk in chunks:
        if isinstance(chunk, TradeTable):
            bars, fates = add_trades(state, chunk, interval, lateness)
        else:
            bars, fates = add_candles(state, chunk, interval)
        yield bars, int(np.count_nonzero(fates != TAKEN))
