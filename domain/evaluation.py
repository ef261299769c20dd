"""Progressive validation at question time: each answer scores the predictions made when its vector was asked.

Losses are squared errors for price change and volatility, and the logarithmic loss for direction. Sums are kept in
the order of the tape, so that they do not depend on how a stream was cut into batches.

References
----------
Dawid, Present Position and Potential Developments: the Prequential Approach, JRSS A 147(2), 1984, doi:10.2307/2981683.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from domain import drift
from domain.baselines import RING
from domain.features import TARGETS
from domain.tables import Flags, Floats, Ints
from domain.tape import Tape

HALF_LIFE = 1_000
"""Answers after which a loss counts half in the recent mean."""

_K = len(TARGETS)
_DIRECTION = TARGETS.index("direction")
_DECAY = 0.5 ** (1.0 / HALF_LIFE)
_drift = drift.step


@dataclass(frozen=True)
class ScoreState:
    """Scores of the ``m`` members of a line.

    Attributes
    ----------
    counts, losses : float64[m, 3]
        Answers scored, and the sum of their losses.
    recent : float64[2, m, 3]
        Exponentially weighted sum of losses, and of weights.
    asked_ts : int64[RING + 1]
        Times of the open questions; the last element counts all questions ever asked.
    asked : float64[RING, m, 3]
        The members' predictions for them.
    drifts : float64[6, m, 3]
        See ``domain.drift``.
    """

    counts: Floats
    losses: Floats
    recent: Floats
    asked_ts: Ints
    asked: Floats
    drifts: Floats

    @classmethod
    def empty(cls, members: int) -> ScoreState:
        """Return the state before any answer."""
        return cls(
            np.zeros((members, _K)), np.zeros((members, _K)), np.zeros((2, members, _K)),
            np.zeros(RING + 1, np.int64), np.zeros((RING, members, _K)), drift.empty(members, _K),
        )  # fmt: skip


@njit(cache=True)
def loss_of(target: int, predicted: float, actual: float) -> float:
    """Return the loss of one prediction: squared error, or log loss where the target is the direction."""
    if target != _DIRECTION:
        return (predicted - actual) ** 2
    p = min(max(predicted, 1e-6), 1.0 - 1e-6)
    return -math.log(p) if actual > 0.5 else -math.log(1.0 - p)


@njit(cache=True)
def _count(counts: Floats, losses: Floats, recent: Floats, drifts: Floats, m: int, k: int, loss: float) -> None:
    if losses[m, k] > 0.0:  # who never erred has no mean to compare with
        _drift(drifts[:, m, k], loss * counts[m, k] / losses[m, k])
    counts[m, k] += 1.0
    losses[m, k] += loss
    recent[0, m, k] = _DECAY * recent[0, m, k] + (1.0 - _DECAY) * loss
    recent[1, m, k] = _DECAY * recent[1, m, k] + (1.0 - _DECAY)


@njit(cache=True)
def _losses(predicted: Floats, actual: Floats, out: Floats) -> None:
    for i in range(len(out)):
        for k in range(_K):
            if not np.isnan(predicted[i, k]) and not np.isnan(actual[i, k]):
                out[i, k] = loss_of(k, predicted[i, k], actual[i, k])


def losses(predicted: Floats, actual: Floats) -> Floats:
    """Return the loss of each prediction, float64[n, 3]: NaN where there is no prediction or no outcome."""
    out = np.full(predicted.shape, np.nan)
    _losses(predicted, actual, out)
    return out


@njit(cache=True)
def _score(asks: Flags, ts: Ints, y: Floats, predicted: Floats, since: int, counts: Floats, losses: Floats,
           recent: Floats, asked_ts: Ints, asked: Floats, drifts: Floats) -> None:  # fmt: skip
    q = 0
    for i in range(len(asks)):
        if asks[i]:
            slot = asked_ts[RING] % RING
            asked_ts[RING] += 1
            asked_ts[slot] = ts[i]
            asked[slot] = predicted[q]
            q += 1
            continue
        if ts[i] <= since:
            continue
        for back in range(1, min(RING, asked_ts[RING]) + 1):
            slot = (asked_ts[RING] - back) % RING
            if asked_ts[slot] < ts[i]:
                break
            if asked_ts[slot] > ts[i]:
                continue
            for m in range(asked.shape[1]):
                for k in range(_K):
                    if np.isnan(y[i, k]) or np.isnan(asked[slot, m, k]):
                        continue
                    loss = loss_of(k, asked[slot, m, k], y[i, k])
                    _count(counts, losses, recent, drifts, m, k, loss)
            break


def score(state: ScoreState, tape: Tape, predicted: Floats, since: int) -> None:
    """Score the tape's answers against the predictions of their questions, in place.

    Parameters
    ----------
    predicted : float64[q, m, 3]
        The members' predictions for the tape's questions; NaN where a member has none.
    since : int
        Questions asked at or before this time (ns) are not scored: they belong to the training window.
    """
    _score(
        tape.asks,
        tape.ts,
        tape.y,
        predicted,
        since,
        state.counts,
        state.losses,
        state.recent,
        state.asked_ts,
        state.asked,
        state.drifts,
    )


def skill(loss: float, baseline: float) -> float | None:
    """Return ``1 - loss / baseline``: 0 is as good as the baseline, 1 is perfect; None without a baseline loss."""
    return 1.0 - loss / baseline if baseline > 0.0 else None


def summary(state: ScoreState, members: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{target: {member: {"n", "loss", "recent_loss", "drift", "drifts"}}}`` for every member that was scored.

    ``drift`` is how near the member is to a drift, ``drifts`` how many there were: see ``domain.drift``.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for k, target in enumerate(TARGETS):
        out[target] = {
            member: {
                "n": int(state.counts[m, k]),
                "loss": float(state.losses[m, k] / state.counts[m, k]),
                "recent_loss": float(state.recent[0, m, k] / state.recent[1, m, k]),
                "drift": drift.level(state.drifts[:, m, k]),
                "drifts": int(state.drifts[drift.COUNT, m, k]),
            }
            for m, member in enumerate(members)
            if state.counts[m, k] > 0
        }
    return out
