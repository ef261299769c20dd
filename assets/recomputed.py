"""Rows computed once more from the lake's bars, to be compared bit for bit with those that rest there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.config import Project
from domain.features import MEMORY, examples, vectors
from domain.tables import BarTable, Floats, Ints
from warehouse.features import read_table
from warehouse.lake import Lake


@dataclass(frozen=True)
class Compared:
    """How many rows were computed again, and the times (ns) of those that came out otherwise."""

    rows: int
    differing: Ints

    def __add__(self, other: Compared) -> Compared:
        return Compared(self.rows + other.rows, np.union1d(self.differing, other.differing))  # drawn twice, told once


NOTHING = Compared(0, np.empty(0, np.int64))


def compare_vectors(lake: Lake, project: Project, instrument: str, at: Ints) -> Compared:
    """Compute the vectors of these times (ns, ascending, near one another) again, as a backfill does."""
    interval = project.interval
    first, last = int(at[0]), int(at[-1])
    bars = read_table(lake, "bars", instrument, first - MEMORY * interval, last)
    again = vectors(bars, first - interval, interval)
    stored = read_table(lake, "features", instrument, first - interval, last)
    same = _same(at, stored.ts, stored.values, again.ts, again.values)
    return Compared(len(at), at[~same])


def compare_examples(lake: Lake, project: Project, instrument: str, available: Ints) -> Compared:
    """Compute examples again by the times (ns, ascending, near one another) at which they became available.

    Each vector is given the bars up to and including its own and no later one, each answer the bars up to the end of
    its horizon: had either looked further ahead, it would come out otherwise.
    """
    interval, horizon = project.interval, project.horizon
    stored = read_table(lake, "examples", instrument, int(available[0]) - interval, int(available[-1]))
    bars = read_table(lake, "bars", instrument, int(available[0]) - horizon - MEMORY * interval, int(available[-1]))
    times, rows = [], []
    for t in (available - horizon).tolist():
        asked = vectors(_until(bars, t), t - interval, interval)
        again = examples(_until(bars, t + horizon), asked, t, horizon, interval)
        times.append(again.available)
        rows.append(np.hstack([again.values, again.targets]))
    told = np.hstack([stored.values, stored.targets])
    same = _same(available, stored.available, told, np.concatenate(times), np.concatenate(rows))
    # A vector may be another's although its time of availability is right.
    same &= np.isin(available, stored.available[stored.ts + horizon == stored.available])
    return Compared(len(available), available[~same])


def _until(bars: BarTable, ts: int) -> BarTable:
    n = int(np.searchsorted(bars.ts, ts, side="right"))
    return BarTable(bars.ts[:n], bars.values[:n])


def _same(at: Ints, a_ts: Ints, a: Floats, b_ts: Ints, b: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each time whether both tables have one row of it, and the same bits."""
    left = {t: row.tobytes() for t, row in zip(a_ts.tolist(), a, strict=True)}
    right = {t: row.tobytes() for t, row in zip(b_ts.tolist(), b, strict=True)}
    return np.array([t in left and left[t] == right.get(t) for t in at.tolist()], np.bool_)
