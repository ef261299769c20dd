"""A line: all models of one instrument, their baselines and their scores, moved forward together along the tape."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from domain import baselines, evaluation, guards
from domain.baselines import BaselineState
from domain.config import Model
from domain.errors import BadState
from domain.evaluation import ScoreState
from domain.features import TARGETS
from domain.guards import GuardState
from domain.learners import Learner, create
from domain.lines import BASELINES, FROZEN, instrument_of
from domain.tables import Floats
from domain.tape import Tape

Arrays = dict[str, np.ndarray[Any, Any]]


class Line:
    """All models of one instrument.

    Parameters
    ----------
    name
        The instrument's, or that of a later line: see ``domain.lines``.
    fleet
        The configured models; the first of each target is its champion.

    Attributes
    ----------
    watermark : int
        Everything on the tape up to this time (ns) was followed.
    n_learned : int
        Answers learned, ever.
    since : int
        Questions asked after this time are scored: the end of the training window, 0 before it.
    """

    def __init__(self, name: str, fleet: tuple[Model, ...]) -> None:
        self.name = name
        self.fleet = fleet
        self.watermark = 0
        self.n_learned = 0
        self.since = 0
        self._learners: list[Learner] = [create(model) for model in fleet]
        self._champions = [next(i for i, m in enumerate(fleet) if target in m.targets) for target in TARGETS]
        self._frozen: dict[int, Learner] = {}
        self._guard = GuardState.empty()
        self._baselines = BaselineState.empty()
        self._scores = ScoreState.empty(len(self.members))

    @property
    def instrument(self) -> str:
        """What the line predicts."""
        return instrument_of(self.name)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of everything that is scored, in order."""
        return (*(model.name for model in self.fleet), *BASELINES, FROZEN)

    @property
    def champions(self) -> dict[str, str]:
        """Which model serves each target."""
        return {target: self.fleet[i].name for target, i in zip(TARGETS, self._champions, strict=True)}

    def advance(self, tape: Tape, until: int) -> Floats:
        """Follow the tape: score and learn its answers, and return the champions' answers to its questions.

        Parameters
        ----------
        tape
            Steps after ``watermark`` and not after ``until``, in order.
        until : int
            The time up to which the tape is complete, ns.

        Returns
        -------
        float64[q, 3]

        Raises
        ------
        BadState
            When a row or a champion's prediction is not finite: the line must not be published.
        """
        tape = guards.bounded(tape)
        taught = guards.winsorised(self._guard, tape)
        q = int(tape.asks.sum())
        predicted = np.full((q, len(self.members), len(TARGETS)), np.nan)
        for m, learner in enumerate(self._learners):
            predicted[:, m] = learner.advance(taught)
        predicted[:, len(self.fleet) : -1] = baselines.advance(self._baselines, tape)
        if self._frozen:
            predicted[:, -1] = self._pick(self._frozen, taught.x[taught.asks])
        predicted = guards.believable(predicted)
        evaluation.score(self._scores, tape, predicted, self.since)
        served = np.stack([predicted[:, m, k] for k, m in enumerate(self._champions)], axis=1)
        if not np.isfinite(served).all():
            raise BadState(f"{self.name}: a champion predicts a non-finite value; restart from the last version")
        self.n_learned += len(tape) - q
        self.watermark = until
        return served

    def predict(self, x: Floats) -> Floats:
        """Return the champions' predictions for ``x``, float64[n, 16], as float64[n, 3]; nothing is learned."""
        return guards.believable(self._pick(dict(enumerate(self._learners)), guards.questions(self._guard, x)))

    def _pick(self, learners: Mapping[int, Learner], x: Floats) -> Floats:
        predicted = {i: learners[i].predict(x) for i in set(self._champions)}
        return np.stack([predicted[i][:, k] for k, i in enumerate(self._champions)], axis=1)

    def freeze(self) -> None:
        """End the training window: keep a copy of the champions, fix the baselines, start scoring afresh."""
        self._frozen = {i: create(self.fleet[i]) for i in set(self._champions)}
        for i, learner in self._frozen.items():
            learner.restore(self._learners[i].arrays())
        self._baselines.fix()
        fresh = ScoreState.empty(len(self.members))
        self._scores = replace(fresh, asked_ts=self._scores.asked_ts, asked=self._scores.asked)
        self.since = self.watermark

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return losses by target and member, see ``evaluation.summary``."""
        return evaluation.summary(self._scores, self.members)

    def arrays(self) -> Arrays:
        """Return the whole state by name; ``restore`` takes it back."""
        out: Arrays = {}
        for model, learner in zip(self.fleet, self._learners, strict=True):
            out |= {f"model/{model.name}/{name}": a for name, a in learner.arrays().items()}
        for i, learner in self._frozen.items():
            out |= {f"frozen/{self.fleet[i].name}/{name}": a for name, a in learner.arrays().items()}
        out |= {f"guard/{name}": a for name, a in vars(self._guard).items()}
        out |= {f"baselines/{name}": a for name, a in vars(self._baselines).items()}
        out |= {f"scores/{name}": a for name, a in vars(self._scores).items()}
        return out

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Continue from a state that ``arrays`` returned."""
        for i, (model, learner) in enumerate(zip(self.fleet, self._learners, strict=True)):
            learner.restore(_below(arrays, f"model/{model.name}/"))
            if frozen := _below(arrays, f"frozen/{model.name}/"):
                self._frozen[i] = create(model)
                self._frozen[i].restore(frozen)
        self._guard = GuardState(**{k: np.array(v) for k, v in _below(arrays, "guard/").items()})
        self._baselines = BaselineState(**{k: np.array(v) for k, v in _below(arrays, "baselines/").items()})
        self._scores = ScoreState(**{k: np.array(v) for k, v in _below(arrays, "scores/").items()})

    def digest(self) -> str:
        """Return a sha256 of all that was learned: equal for equal lines, whatever their names and their history."""
        sha = hashlib.sha256(f"{self.instrument}|{self.watermark}|{self.n_learned}|{self.since}".encode())
        opaque = {f"model/{m.name}/{n}": d for m, lr in zip(self.fleet, self._learners, strict=True)
                  for n, d in lr.digests().items()}  # fmt: skip
        opaque |= {
            f"frozen/{self.fleet[i].name}/{n}": d for i, lr in self._frozen.items() for n, d in lr.digests().items()
        }
        for name, array in sorted(self.arrays().items()):
            if name in opaque:
                sha.update(f"|{name}:{opaque[name]}".encode())
            else:
                sha.update(f"|{name}:{array.dtype.str}{array.shape}:".encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()


def _below(arrays: Mapping[str, np.ndarray[Any, Any]], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
