"""Drift: the Page-Hinkley test on a member's losses, which tells that it has become worse than it used to be.

Each loss is taken relative to the mean of those before it, so that one threshold fits every target. The test keeps the
sum of what losses lie above their mean, less an allowance, and watches how far that sum has risen from its lowest
point.

References
----------
Page, Continuous Inspection Schemes, Biometrika 41, 1954, doi:10.2307/2333009. The step equals
``river.drift.PageHinkley(delta=ALLOWANCE, threshold=THRESHOLD, alpha=ALPHA, mode="up")`` bit for bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from domain.tables import Floats

ALLOWANCE = 0.1
"""Excess of a relative loss that is forgiven: squared errors scatter by more than their mean."""

THRESHOLD = 100.0
"""Excess, in mean losses, at which a drift is declared: losses 30 % too high get there in some 500 labels."""

ALPHA = 0.9999
ENOUGH = 30

N, MEAN, SUM, LOWEST, FOUND, COUNT = range(6)
ROWS = 6


def empty(members: int, targets: int) -> Floats:
    """Return the state before any loss, float64[6, m, 3]."""
    return np.zeros((ROWS, members, targets))


@njit(cache=True)
def step(state: Floats, x: float) -> None:
    """Take a relative loss in, float64[6]."""
    if state[FOUND] > 0.0:  # begins afresh after a drift
        state[N], state[MEAN], state[SUM], state[FOUND] = 0.0, 0.0, 0.0, 0.0
    state[N] += 1.0
    state[MEAN] += (1.0 / state[N]) * (x - state[MEAN])
    state[SUM] = ALPHA * state[SUM] + (x - state[MEAN]) - ALLOWANCE
    state[LOWEST] = state[SUM] if state[N] == 1.0 else min(state[LOWEST], state[SUM])
    if state[N] >= ENOUGH and state[SUM] - state[LOWEST] > THRESHOLD:
        state[FOUND] = 1.0
        state[COUNT] += 1.0


def level(state: Floats) -> float:
    """Return how far on the way to a drift the losses are: 0 as good as ever, above 1 a drift is declared."""
    return float((state[SUM] - state[LOWEST]) / THRESHOLD)
