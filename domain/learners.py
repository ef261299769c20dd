"""The members of a fleet behind one protocol: follow the tape, predict without learning, save and restore.

``advance`` is the only verb that learns. A member's state is arrays where it is compiled, and a pickle of the strict
kind where it is a River estimator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from domain import pickles, rls, zoo
from domain.config import Model
from domain.errors import UsageError
from domain.features import FEATURES, TARGETS
from domain.tables import Floats
from domain.tape import Tape


class Learner(Protocol):
    """One member of the fleet."""

    model: Model

    def advance(self, tape: Tape) -> Floats:
        """Learn the tape's answers and return the predictions of its questions, float64[q, 3], NaN where none."""
        ...

    def predict(self, x: Floats) -> Floats:
        """Return predictions for ``x``, float64[n, 16], as float64[n, 3]; nothing is learned."""
        ...

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the state by name; ``restore`` takes it back."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Continue from a state that ``arrays`` returned."""
        ...

    def digests(self) -> dict[str, str]:
        """Return digests of what the arrays hold only as opaque bytes."""
        ...


class Rls:
    """Recursive least squares with forgetting, see ``domain.rls``."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._learns = np.array([target in model.targets for target in TARGETS])
        self._state = rls.RlsState.empty()

    def advance(self, tape: Tape) -> Floats:
        """See ``Learner``."""
        out = rls.advance(self._state, tape, self._learns, self.model.forgetting, self.model.clip)
        out[:, ~self._learns] = np.nan
        return out

    def predict(self, x: Floats) -> Floats:
        """See ``Learner``."""
        out = rls.predict(self._state, x, self.model.clip)
        out[:, ~self._learns] = np.nan
        return out

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """See ``Learner``."""
        s = self._state
        return {"moments": s.moments, "labels": s.labels, "weights": s.weights, "covariance": s.covariance}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """See ``Learner``."""
        self._state = rls.RlsState(**{name: np.array(arrays[name]) for name in self.arrays()})

    def digests(self) -> dict[str, str]:
        """See ``Learner``: everything is in the arrays."""
        return {}


class River:
    """A River estimator a target, fed one dict a row in the order of ``FEATURES``, so that a replay is exact."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._estimators = {target: zoo.build(model.estimator) for target in model.targets}
        self._copies: dict[str, Any] = {}
        wrong = [t for t, e in self._estimators.items() if zoo.classifies(e) and t != "direction"]
        if wrong:
            raise UsageError(f"a classifier cannot learn {wrong[0]}; give it direction, or a regressor")

    def advance(self, tape: Tape) -> Floats:
        """See ``Learner``."""
        out = np.full((int(tape.asks.sum()), len(TARGETS)), np.nan)
        self._copies = {}
        rows = tape.x.tolist()
        asks = tape.asks.tolist()
        for target, estimator in self._estimators.items():
            k, classifies = TARGETS.index(target), zoo.classifies(estimator)
            y = tape.y[:, k].tolist()
            q = 0
            for i, row in enumerate(rows):
                x = dict(zip(FEATURES, row, strict=True))
                if asks[i]:
                    out[q, k] = _answer(estimator, x, classifies=classifies)
                    q += 1
                elif not math.isnan(y[i]):
                    estimator.learn_one(x, bool(y[i]) if classifies else y[i])
        return out

    def predict(self, x: Floats) -> Floats:
        """See ``Learner``: a copy answers, because some of River's estimators keep notes while they predict."""
        out = np.full((len(x), len(TARGETS)), np.nan)
        if not self._copies:
            self._copies = {target: pickles.copy(e) for target, e in self._estimators.items()}
        for target, estimator in self._copies.items():
            k, classifies = TARGETS.index(target), zoo.classifies(estimator)
            for i, row in enumerate(x.tolist()):
                out[i, k] = _answer(estimator, dict(zip(FEATURES, row, strict=True)), classifies=classifies)
        return out

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """See ``Learner``."""
        return {target: np.frombuffer(pickles.dump(e), np.uint8) for target, e in self._estimators.items()}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """See ``Learner``; the pickles pass the strict loader."""
        self._estimators = {target: pickles.load(arrays[target].tobytes()) for target in self.model.targets}
        self._copies = {}

    def digests(self) -> dict[str, str]:
        """See ``Learner``: pickles of equal estimators differ, so their states are walked instead."""
        return {target: zoo.digest(e) for target, e in self._estimators.items()}


def _answer(estimator: Any, x: dict[str, float], *, classifies: bool) -> float:  # noqa: ANN401
    value = estimator.predict_proba_one(x).get(True, 0.5) if classifies else estimator.predict_one(x)
    # A challenger that has blown up answers nothing, and is scored on what it did answer.
    return float(value) if value is not None and math.isfinite(value) else math.nan


def create(model: Model) -> Learner:
    """Return the untrained learner that the configuration describes.

    Raises
    ------
    UsageError
        When its estimator cannot be built, or cannot learn one of its targets.
    """
    try:
        return Rls(model) if model.kind == "rls" else River(model)
    except UsageError as error:
        raise UsageError(f"model {model.name}: {error}") from error
