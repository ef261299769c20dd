"""Recursive least squares with forgetting: the champion learner, compiled, one state of plain arrays for all targets.

Two guards stand inside the step, behind those of ``domain.guards``, which winsorise the rows: features are scaled by
their running mean and deviation, and scaled features are clipped. Prediction is pure.

References
----------
Haykin, Adaptive Filter Theory, 5th ed., chapter 10 (exponentially weighted RLS). Covariance wind-up and its remedy by
bounding the trace: Salgado, Goodwin, Middleton, Modified least squares algorithm incorporating exponential resetting
and forgetting, International Journal of Control 47(2), 1988, doi:10.1080/00207178808906026. Running moments: Welford,
Technometrics 4(3), 1962, doi:10.1080/00401706.1962.10490022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from domain.features import FEATURES, TARGETS
from domain.tables import Flags, Floats
from domain.tape import Tape

WARM_UP = 100
"""Answers that only teach the scale of features and labels, before the first one moves the weights."""

_INTERCEPT = 100.0  # prior variance of the intercept, relative to the noise: the level comes from the data at once
_WEIGHT = 0.01  # of a weight: as if a hundred labels had said that the feature does not matter; keeps a cold line calm
_DIRECTION = TARGETS.index("direction")
_EDGE = 0.01  # a probability is kept off 0 and 1: the log loss of certainty is unbounded


@dataclass(frozen=True)
class RlsState:
    """Weights and scales of one line.

    Attributes
    ----------
    moments : float64[2, 1 + d]
        Count of answers and running mean (row 0), and sum of squared deviations (row 1), of the features.
    labels : float64[3, k]
        Count, mean and sum of squared deviations of each target.
    weights : float64[k, 1 + d]
        Intercept first.
    covariance : float64[k, 1 + d, 1 + d]
    """

    moments: Floats
    labels: Floats
    weights: Floats
    covariance: Floats

    @classmethod
    def empty(cls) -> RlsState:
        """Return the state that has learned nothing."""
        d, k = 1 + len(FEATURES), len(TARGETS)
        prior = np.diag([_INTERCEPT, *[_WEIGHT] * len(FEATURES)])
        return cls(
            np.zeros((2, d)),
            np.zeros((3, k)),
            np.zeros((k, d)),
            np.ascontiguousarray(np.tile(prior, (k, 1, 1))),
        )

    def copy(self) -> RlsState:
        """Return an independent copy."""
        return RlsState(self.moments.copy(), self.labels.copy(), self.weights.copy(), self.covariance.copy())


@njit(cache=True)
def _scaled(x: Floats, moments: Floats, clip: float, a: Floats) -> None:
    n = moments[0, 0]
    a[0] = 1.0
    for j in range(len(x)):
        sd = np.sqrt(moments[1, 1 + j] / n) if n > 0.0 else 0.0
        z = (x[j] - moments[0, 1 + j]) / (sd + 1e-9)
        a[1 + j] = min(max(z, -clip), clip)


@njit(cache=True)
def _predict(x: Floats, moments: Floats, labels: Floats, weights: Floats, clip: float, a: Floats, out: Floats) -> None:
    _scaled(x, moments, clip, a)
    for k in range(len(out)):
        p = labels[1, k]
        if moments[0, 0] > WARM_UP:
            p = 0.0
            for j in range(len(a)):
                p += weights[k, j] * a[j]
        # A probability before any label is even; after that a linear estimate is kept inside its edges.
        if k == _DIRECTION:
            p = min(max(p, _EDGE), 1.0 - _EDGE) if labels[0, k] > 0.0 else 0.5
        out[k] = p


@njit(cache=True)
def _learn(x: Floats, y: Floats, learns: Flags, moments: Floats, labels: Floats, weights: Floats, covariance: Floats,
           forgetting: float, clip: float, a: Floats) -> None:  # fmt: skip
    moments[0, 0] += 1.0
    for j in range(len(x)):
        delta = x[j] - moments[0, 1 + j]
        moments[0, 1 + j] += delta / moments[0, 0]
        moments[1, 1 + j] += delta * (x[j] - moments[0, 1 + j])
    warm = moments[0, 0] > WARM_UP
    _scaled(x, moments, clip, a)
    d = len(a)
    pa = np.empty(d)
    for k in range(len(y)):
        if np.isnan(y[k]) or not learns[k]:
            continue
        label = y[k]
        labels[0, k] += 1.0
        delta = label - labels[1, k]
        labels[1, k] += delta / labels[0, k]
        labels[2, k] += delta * (label - labels[1, k])
        if not warm:
            continue
        w, p = weights[k], covariance[k]
        predicted, gain, trace = 0.0, 0.0, 0.0
        for i in range(d):
            s = 0.0
            for j in range(d):
                s += p[i, j] * a[j]
            pa[i] = s
            gain += s * a[i]
            predicted += w[i] * a[i]
            trace += p[i, i]
        # Without excitation forgetting inflates the covariance without bound: pause it at a wide prior's size.
        keep = forgetting if trace < _INTERCEPT * d else 1.0
        scale = 1.0 / (keep + gain)
        error = label - predicted
        for i in range(d):
            w[i] += pa[i] * scale * error
            for j in range(i, d):
                v = (p[i, j] - pa[i] * pa[j] * scale) / keep
                p[i, j] = v
                p[j, i] = v


@njit(cache=True)
def _advance(asks: Flags, x: Floats, y: Floats, learns: Flags, moments: Floats, labels: Floats, weights: Floats,
             covariance: Floats, forgetting: float, clip: float, out: Floats) -> None:  # fmt: skip
    a = np.empty(x.shape[1] + 1)
    q = 0
    for i in range(len(asks)):
        if asks[i]:
            _predict(x[i], moments, labels, weights, clip, a, out[q])
            q += 1
        else:
            _learn(x[i], y[i], learns, moments, labels, weights, covariance, forgetting, clip, a)


def advance(state: RlsState, tape: Tape, learns: Flags, forgetting: float, clip: float) -> Floats:
    """Follow the tape: learn its answers into ``state`` (in place) and return the predictions of its questions.

    Parameters
    ----------
    learns : bool[3]
        Which targets are learned.
    forgetting : float
        Weight of a label decays by this factor with each newer one, in (0, 1].
    clip : float
        Bound of the scaled features, deviations.

    Returns
    -------
    float64[q, 3]
        One row a question, in order; direction as a probability.
    """
    out = np.empty((int(tape.asks.sum()), len(TARGETS)))
    _advance(
        tape.asks,
        tape.x,
        tape.y,
        learns,
        state.moments,
        state.labels,
        state.weights,
        state.covariance,
        forgetting,
        clip,
        out,
    )
    return out


def predict(state: RlsState, x: Floats, clip: float) -> Floats:
    """Return the predictions for ``x``, float64[n, 16], as float64[n, 3]; the state is not touched."""
    n = len(x)
    out = np.empty((n, len(TARGETS)))
    none = np.zeros(len(TARGETS), np.bool_)
    _advance(
        np.ones(n, np.bool_), x, np.empty((n, len(TARGETS))), none, state.moments, state.labels, state.weights,
        state.covariance, 1.0, clip, out,
    )  # fmt: skip
    return out
