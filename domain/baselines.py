"""The forecasts every model must beat: running mean, persistence and a calibrated exponential average.

* **mean**: mean of the labels matured so far; for direction the frequency of a rise.
* **persistence**: the label that matured last; for direction the frequency of a rise after a move of its kind.
* **ewma**: an exponential average with half-life 10 bars, put on the label's scale by a straight line fitted on the
  training window and fixed there: of squared returns (feature ``ew10``) for volatility, of matured labels otherwise.

All three know just what a model may know at question time. Their state is arrays, compiled like the models'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from domain.features import FEATURES, TARGETS
from domain.lines import BASELINES
from domain.tables import Flags, Floats, Ints
from domain.tape import Tape

RING = 256
"""Questions that may wait for their answers: more than the longest horizon, 240 bars."""

ENOUGH = 100
"""Pairs that a straight line needs before it may be fixed: one fixed on none would be a yardstick of zeros."""

_K = len(TARGETS)
_DIRECTION = TARGETS.index("direction")
_VOLATILITY = TARGETS.index("volatility")
_EW10 = FEATURES.index("ew10")
_DECAY = 0.5 ** (1.0 / 10.0)
_EDGE = 0.01

# Rows of the label state.
_N, _MEAN, _LAST, _EWMA, _EWMA_WEIGHT, _UP_N, _UP_RISES, _DOWN_N, _DOWN_RISES = range(9)
# Rows of the calibration state: sums of the straight line y = a + b e, and its coefficients.
_CN, _CE, _CY, _CEE, _CEY, _A, _B, _FIXED = range(8)


@dataclass(frozen=True)
class BaselineState:
    """State of one line's baselines.

    Attributes
    ----------
    labels : float64[9, k]
        Count, mean, last, exponential average and its weight, and the four counts of moves after moves.
    calibration : float64[8, k]
        Running moments and coefficients of the straight lines; the last row is 1 once they are fixed.
    asked_ts, asked : int64[RING + 1], float64[RING, 2k]
        Averages and last moves as they stood at each open question; the last of ``asked_ts`` counts questions.
    """

    labels: Floats
    calibration: Floats
    asked_ts: Ints
    asked: Floats

    @classmethod
    def empty(cls) -> BaselineState:
        """Return the state before any label."""
        return cls(np.zeros((9, _K)), np.zeros((8, _K)), np.zeros(RING + 1, np.int64), np.zeros((RING, 2 * _K)))

    def copy(self) -> BaselineState:
        """Return an independent copy."""
        return BaselineState(self.labels.copy(), self.calibration.copy(), self.asked_ts.copy(), self.asked.copy())

    def fix(self) -> None:
        """End the calibration: the training window is over; a line that starts cold goes on calibrating."""
        self.calibration[_FIXED] = self.calibration[_CN] >= ENOUGH


@njit(cache=True)
def _rise_after(labels: Floats) -> float:
    k = _DIRECTION
    n = labels[_UP_N, k] if labels[_LAST, k] > 0.5 else labels[_DOWN_N, k]
    rises = labels[_UP_RISES, k] if labels[_LAST, k] > 0.5 else labels[_DOWN_RISES, k]
    after: float = (rises + 1.0) / (n + 2.0)  # Laplace's rule: even before any move
    return after


@njit(cache=True)
def _ask(ts: int, x: Floats, labels: Floats, calibration: Floats, asked_ts: Ints, asked: Floats, out: Floats) -> None:
    slot = asked_ts[RING] % RING
    asked_ts[RING] += 1
    asked_ts[slot] = ts
    for k in range(_K):
        e = x[_EW10] if k == _VOLATILITY else labels[_EWMA, k] / max(labels[_EWMA_WEIGHT, k], 1e-12)
        asked[slot, k] = e
        asked[slot, _K + k] = labels[_LAST, k]
        out[0, k] = labels[_MEAN, k]
        out[1, k] = labels[_LAST, k]
        out[2, k] = calibration[_A, k] + calibration[_B, k] * e
        if k == _DIRECTION:
            out[0, k] = 0.5 if labels[_N, k] == 0.0 else min(max(out[0, k], _EDGE), 1.0 - _EDGE)
            out[1, k] = _rise_after(labels)
            out[2, k] = 0.5 if calibration[_CN, k] < 2.0 else min(max(out[2, k], _EDGE), 1.0 - _EDGE)


@njit(cache=True)
def _calibrate(e: float, y: float, c: Floats) -> None:
    c[_CN] += 1.0
    de, dy = e - c[_CE], y - c[_CY]
    c[_CE] += de / c[_CN]
    c[_CY] += dy / c[_CN]
    c[_CEE] += de * (e - c[_CE])
    c[_CEY] += de * (y - c[_CY])
    c[_B] = c[_CEY] / c[_CEE] if c[_CEE] > 0.0 else 0.0
    c[_A] = c[_CY] - c[_B] * c[_CE]


@njit(cache=True)
def _answer(ts: int, y: Floats, labels: Floats, calibration: Floats, asked_ts: Ints, asked: Floats) -> None:
    slot = -1
    for back in range(1, min(RING, asked_ts[RING]) + 1):
        at = (asked_ts[RING] - back) % RING
        if asked_ts[at] == ts:
            slot = at
            break
        if asked_ts[at] < ts:
            break
    for k in range(_K):
        if np.isnan(y[k]):
            continue
        if slot >= 0:
            if calibration[_FIXED, k] == 0.0:
                _calibrate(asked[slot, k], y[k], calibration[:, k])
            if k == _DIRECTION:
                after_up = asked[slot, _K + k] > 0.5
                labels[_UP_N if after_up else _DOWN_N, k] += 1.0
                labels[_UP_RISES if after_up else _DOWN_RISES, k] += y[k]
        labels[_N, k] += 1.0
        labels[_MEAN, k] += (y[k] - labels[_MEAN, k]) / labels[_N, k]
        labels[_LAST, k] = y[k]
        labels[_EWMA, k] = _DECAY * labels[_EWMA, k] + (1.0 - _DECAY) * y[k]
        labels[_EWMA_WEIGHT, k] = _DECAY * labels[_EWMA_WEIGHT, k] + (1.0 - _DECAY)


@njit(cache=True)
def _advance(asks: Flags, ts: Ints, x: Floats, y: Floats, labels: Floats, calibration: Floats, asked_ts: Ints,
             asked: Floats, out: Floats) -> None:  # fmt: skip
    q = 0
    for i in range(len(asks)):
        if asks[i]:
            _ask(ts[i], x[i], labels, calibration, asked_ts, asked, out[q])
            q += 1
        else:
            _answer(ts[i], y[i], labels, calibration, asked_ts, asked)


def advance(state: BaselineState, tape: Tape) -> Floats:
    """Follow the tape in place and return the baselines' answers to its questions, float64[q, 3 baselines, 3]."""
    out = np.zeros((int(tape.asks.sum()), len(BASELINES), _K))
    _advance(
        tape.asks, tape.ts, tape.x, tape.y, state.labels, state.calibration, state.asked_ts, state.asked, out
    )  # fmt: skip
    return out
