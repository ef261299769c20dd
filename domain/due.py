"""What a table of history owes: the rows that there must be, given the bars that there are."""

from __future__ import annotations

from typing import Literal

import numpy as np

from domain.features import WINDOW
from domain.tables import Ints

Table = Literal["bars", "features", "examples"]


def due(table: Table, bars: Ints, after: int, until: int, horizon: int, interval: int) -> Ints:
    """Return the times of the rows that a table must have in ``(after, until]``.

    Parameters
    ----------
    bars : int64[n], ns, ascending
        Ends of the bars that there are, those of the lead before ``after`` included.
    after, until, horizon, interval : int
        Nanoseconds; a bar is due at every place of the grid.

    Examples
    --------
    >>> due("bars", np.array([10, 30]), 10, 40, 10, 10).tolist()
    [20, 30, 40]
    >>> due("features", np.delete(np.arange(2, 300), 9), 0, 254, 5, 1).tolist()
    [252, 253, 254]
    >>> due("examples", np.arange(300), 0, 247, 5, 1).tolist()
    [245, 246, 247]
    """
    if table == "bars":
        return np.arange(after // interval + 1, until // interval + 1, dtype=np.int64) * interval
    whole: Ints = bars[WINDOW:][bars[WINDOW:] - bars[:-WINDOW] == WINDOW * interval]
    if table == "examples":
        # A vector is answered by the bar that ends a horizon later.
        whole = np.intersect1d(whole + horizon, bars, assume_unique=True)
    found: Ints = whole[(whole > after) & (whole <= until)]
    return found
