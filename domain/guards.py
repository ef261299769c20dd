"""Guards between the rows and everything that learns: one definition, for the batch and the stream alike.

The order is: schema, finite (both where a record is decoded), **winsorise**, scale, clip (inside the compiled learner)
and **finite prediction**. This file is the two in bold. Winsorising has two steps, and every member of a line sees the
same rows after them:

1. *What the quantity can be.* A fixed range for each feature and target, far outside what an honest market shows: a
   one-bar move by a factor of e, a volume of 10^18. Scores and baselines see rows that passed this step alone, so that
   a loss is finite and yet never flattered.
2. *What it has been.* Once ``WARM_UP`` answers have taught the scale, a feature or label further than its reach from
   the running mean is pulled back to it, and the moments learn the value that was pulled back: one bad print makes one
   bounded step. Flags and times of day are already within 1 of zero and are left as they are.

References
----------
Winsorised moments: Tukey, The Future of Data Analysis, Annals of Mathematical Statistics 33(1), 1962,
doi:10.1214/aoms/1177704711.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from domain.errors import BadState
from domain.features import FEATURES, TARGETS
from domain.tables import Flags, Floats
from domain.tape import Tape

WARM_UP = 100
"""Answers that only teach the scale, before the first value is pulled back."""

LABEL_REACH = 8.0
"""Deviations from its mean at which a label is held. In 2019 1 in 375 five-minute changes of BTC-USD passed it."""

FEATURE_REACH = 16.0
"""The same for a feature: twice the compiled learner's own clip, which stays the one that honest rows feel."""

_MOVE = 1e4  # basis points: the logarithm of a price that changes by a factor of e within one bar
_STILL, _WILD = math.log(0.1), math.log(_MOVE + 0.1)  # ln(rms + 0.1) of a market that stands still, and of such moves
_VOLUME = math.log(1e18)  # no instrument has so many units

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lrv5", "lrv15", "lrv60", "lrv240", "ew10", "ew60", "lrng5", "lrng30"), (_STILL, _WILD)),
    "ret1": (-_MOVE, _MOVE),
    "abs1": (0.0, _MOVE),
    "lvol": (0.0, _VOLUME),
    "lvol_d": (-_VOLUME, _VOLUME),
    "miss": (0.0, 1.0),
    "tod_sin": (-1.0, 1.0),
    "tod_cos": (-1.0, 1.0),
    "weekend": (0.0, 1.0),
    "price_change": (-_MOVE, _MOVE),
    "direction": (0.0, 1.0),
    "volatility": (_STILL, _WILD),
}
"""What each quantity can be."""

FEATURE_RANGE: Floats = np.array([_RANGES[name] for name in FEATURES])
TARGET_RANGE: Floats = np.array([_RANGES[name] for name in TARGETS])

_FELT: Flags = np.abs(FEATURE_RANGE).max(axis=1) > 1.0  # features that have a scale to learn


@dataclass(frozen=True)
class GuardState:
    """What a line's rows have been.

    Attributes
    ----------
    features : float64[3, d]
        Count, mean and sum of squared deviations of each feature, as pulled back.
    labels : float64[3, k]
        The same of each target.
    """

    features: Floats
    labels: Floats

    @classmethod
    def empty(cls) -> GuardState:
        """Return the state before any answer."""
        return cls(np.zeros((3, len(FEATURES))), np.zeros((3, len(TARGETS))))


@njit(cache=True)
def _within(values: Floats, ranges: Floats) -> Floats:
    out = values.copy()
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            # Comparisons leave a NaN (a target that is unknown) as it is.
            if out[i, j] < ranges[j, 0]:
                out[i, j] = ranges[j, 0]
            elif out[i, j] > ranges[j, 1]:
                out[i, j] = ranges[j, 1]
    return out


@njit(cache=True)
def _held(value: float, moments: Floats, reach: float) -> float:
    # Where no value has differed yet there is no scale to judge by, and a reach of zero would never let one differ.
    if moments[0] < WARM_UP or moments[2] <= 0.0:
        return value
    width = reach * math.sqrt(moments[2] / moments[0])
    held: float = min(max(value, moments[1] - width), moments[1] + width)
    return held


@njit(cache=True)
def _note(value: float, moments: Floats) -> None:
    moments[0] += 1.0
    delta = value - moments[1]
    moments[1] += delta / moments[0]
    moments[2] += delta * (value - moments[1])


@njit(cache=True)
def _winsorise(asks: Flags, x: Floats, y: Floats, felt: Flags, features: Floats, labels: Floats) -> None:
    for i in range(len(asks)):
        for j in range(x.shape[1]):
            if felt[j]:
                x[i, j] = _held(x[i, j], features[:, j], FEATURE_REACH)
                if not asks[i]:
                    _note(x[i, j], features[:, j])
        if asks[i]:
            continue
        for k in range(y.shape[1]):
            if not np.isnan(y[i, k]):
                y[i, k] = _held(y[i, k], labels[:, k], LABEL_REACH)
                _note(y[i, k], labels[:, k])


def bounded(tape: Tape) -> Tape:
    """Return the tape with every value within what the quantity can be.

    Raises
    ------
    BadState
        When a feature is not a number: the codec refuses such records, so rows that hold one came another way.
    """
    if not np.isfinite(tape.x).all():
        raise BadState("a row to learn from holds a feature that is not finite; find out how it passed the codec")
    return Tape(tape.asks, tape.ts, _within(tape.x, FEATURE_RANGE), _within(tape.y, TARGET_RANGE))


def winsorised(state: GuardState, tape: Tape) -> Tape:
    """Return a bounded tape with every value within reach of what it has been; answers move ``state``, in place."""
    x, y = tape.x.copy(), tape.y.copy()
    _winsorise(tape.asks, x, y, _FELT, state.features, state.labels)
    return Tape(tape.asks, tape.ts, x, y)


def questions(state: GuardState, x: Floats) -> Floats:
    """Return vectors, float64[n, 16], as :func:`winsorised` would hand them on as questions; nothing is learned."""
    x = _within(x, FEATURE_RANGE)
    _winsorise(np.ones(len(x), np.bool_), x, np.empty((len(x), 0)), _FELT, state.features, state.labels)
    return x


def believable(predicted: Floats) -> Floats:
    """Return predictions, float64[..., 3], that can be scored: what is not finite answers nothing (NaN).

    A finite answer outside what the target can be is held at the edge: its squared error must not overflow.
    """
    flat = predicted.reshape(-1, len(TARGETS))
    return _within(np.where(np.isfinite(flat), flat, np.nan), TARGET_RANGE).reshape(predicted.shape)
