"""Gaps: what a series on an even grid of time lacks, has twice, or has beside the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.tables import Flags, Ints


@dataclass(frozen=True)
class Gaps:
    """What was found of a series in a window.

    Attributes
    ----------
    rows, expected : rows there are, and places on the grid
    doubled : rows with the time of the row before
    strayed : rows beside the grid
    holes : where rows are absent, oldest first: time of the last row before, ns, and how many are absent
    """

    rows: int
    expected: int
    doubled: int
    strayed: int
    holes: tuple[tuple[int, int], ...]

    @property
    def absent(self) -> int:
        """Rows that are absent in all."""
        return sum(n for _, n in self.holes)

    @property
    def longest(self) -> int:
        """Absent rows of the longest hole."""
        return max((n for _, n in self.holes), default=0)


def gaps_of(ts: Ints, after: int, until: int, interval: int) -> Gaps:
    """Return what the rows of ``(after, until]`` lack.

    Parameters
    ----------
    ts : int64[n], ns, ascending, within the window
    after, until : int, ns, on the grid
    interval : int, ns

    Examples
    --------
    >>> found = gaps_of(np.array([10, 20, 20, 50]), 0, 60, 10)
    >>> found.rows, found.expected, found.doubled, found.holes
    (4, 6, 1, ((20, 2), (50, 1)))
    """
    edges = np.concatenate([[after], ts, [until + interval]])
    steps = np.diff(edges)
    wide = np.flatnonzero(steps > interval)
    return Gaps(
        rows=len(ts),
        expected=max(0, (until - after) // interval),
        doubled=int((np.diff(ts) == 0).sum()),
        strayed=int((ts % interval != 0).sum()),
        holes=tuple((int(edges[i]), int(-(-steps[i] // interval)) - 1) for i in wide),
    )


def longest_run(flags: Flags) -> int:
    """Return the length of the longest run of true ones.

    >>> longest_run(np.array([True, False, True, True]))
    2
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
