"""Which records of a topic follow one another: bars, vectors, examples and predictions leave their maker on the grid.

One interval after another, so a record that is not the next one needs a reason to be believed. Repetitions are what a
crash leaves behind, and harmless. A record far ahead is a stranger's, or the first after a real gap (a market that was
closed, records that expired): it is *held* until ``CONFIRM`` records in a row say the same, and refused as soon as the
grid goes on without it.

The verdict is a function of the newest record believed and of the records that follow it. Whoever starts to read again
at the first one that is held comes to the same verdicts, from whichever offset, in whatever pieces.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from domain.tables import Ints

CONFIRM = 3
"""Records in a row, one interval apart, that make a gap believed: one or two are a wrong clock or a stranger's."""

NEXT, REPEATED, OFF_GRID, AHEAD, HELD = range(5)
"""Verdicts: believed; not newer; not a multiple of the interval; ahead and refuted; ahead and not yet confirmed."""


@njit(cache=True)
def _judge(ts: Ints, newest: int, interval: int) -> tuple[Ints, int]:
    verdicts = np.empty(len(ts), np.int64)
    held = np.empty(CONFIRM, np.int64)
    n, first, last = 0, 0, 0
    for i in range(len(ts)):
        t = ts[i]
        if t <= 0 or t % interval != 0:
            verdicts[i] = OFF_GRID
        elif t <= newest or (n > 0 and first <= t <= last):
            verdicts[i] = REPEATED
        elif t == newest + interval or (n == CONFIRM - 1 and t == last + interval):
            follows = t != newest + interval
            for j in range(n):
                verdicts[held[j]] = NEXT if follows else AHEAD
            verdicts[i], newest, n = NEXT, t, 0
        else:
            if n > 0 and t != last + interval:
                for j in range(n):
                    verdicts[held[j]] = AHEAD
                n = 0
            if n == 0:
                first = t
            verdicts[i], held[n], last = HELD, i, t
            n += 1
    return verdicts, newest


def judge(ts: Ints, newest: int, interval: int) -> tuple[Ints, int]:
    """Judge records by their times, those that are still held from the call before first.

    Parameters
    ----------
    ts : int64[n], ns
        In order of arrival.
    newest : int
        Time of the newest record believed, ns; 0 before the first.
    interval : int
        Nanoseconds.

    Returns
    -------
    verdicts : int64[n]
        One of ``NEXT``, ``REPEATED``, ``OFF_GRID``, ``AHEAD`` and ``HELD``; at most ``CONFIRM - 1`` are held.
    newest : int
        Time of the newest record believed by now.

    Examples
    --------
    >>> judge(np.array([10, 20, 70, 30]), 0, 10)[0].tolist() == [NEXT, NEXT, AHEAD, NEXT]
    True
    >>> judge(np.array([10, 70, 80, 90]), 0, 10)[0].tolist() == [NEXT, NEXT, NEXT, NEXT]
    True
    """
    verdicts, newest = _judge(np.ascontiguousarray(ts), newest, interval)
    return verdicts, int(newest)
