"""The order in which a line lives through its day: questions and answers on one tape, in event time.

A question is a vector, asked when it became known; an answer is an example, learned when its targets became known. At
equal times the answer comes first (the order of River's ``simulate_qa``). A model that follows the tape therefore
predicts each vector knowing every label that had matured by then and no later one, whether the tape comes from the
lake in one piece or from two topics in many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.features import FEATURES, TARGETS
from domain.tables import ExampleTable, Flags, Floats, Ints, VectorTable


@dataclass(frozen=True)
class Tape:
    """``n`` steps in order.

    Attributes
    ----------
    asks : bool[n]
        True for a question, False for an answer.
    ts : int64[n]
        The vector's own time, ns: what joins an answer to its question.
    x : float64[n, 16]
    y : float64[n, 3]
        Targets of answers, NaN in questions.
    """

    asks: Flags
    ts: Ints
    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.ts)


def merge(asked: VectorTable, answered: ExampleTable) -> Tape:
    """Return questions and answers as one tape.

    Parameters
    ----------
    asked : q rows, increasing in ``ts``
    answered : a rows, increasing in ``available``
    """
    q, a = len(asked), len(answered)
    when = np.concatenate([answered.available, asked.ts])
    # Stable: the answers stand first, so that they come first where the times are equal.
    order = np.argsort(when, kind="stable")
    y = np.full((a + q, len(TARGETS)), np.nan)
    y[:a] = answered.targets
    return Tape(
        asks=(np.arange(a + q) >= a)[order],
        ts=np.concatenate([answered.ts, asked.ts])[order],
        x=np.concatenate([answered.values.reshape(a, len(FEATURES)), asked.values.reshape(q, len(FEATURES))])[order],
        y=y[order],
    )


def ready_until(asked: VectorTable, answered: ExampleTable) -> int | None:
    """Return the time up to which the tape is complete, given what has arrived of two ordered streams.

    A vector and the example that matures with it leave the featurizer together, so the tape is complete up to the
    older of the newest vector and the newest example. None while either is still to come.
    """
    if not len(asked) or not len(answered):
        return None
    return int(min(asked.ts[-1], answered.available[-1]))
