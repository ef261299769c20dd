"""A card: one line's answers beside what then happened, and beside what a simple average would have said.

All series of a card lie on one even grid of time, a place a bar, NaN where there is nothing: so that the intervals of
``domain.confidence`` know which rows are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from domain import confidence
from domain.confidence import Estimate
from domain.features import TARGETS
from domain.lines import BASELINES
from domain.tables import Flags, Floats, Ints

BINS = 10
RANGES = 50
"""Ranges of versions told apart: there is a version a second, and more points than these no picture shows."""

AGES = (0, 1, 2, 5, 15, 60, 240)
"""Lower edges of the bins of model age, bars: fresh ones apart by the bar, stale ones by the hour."""


@dataclass(frozen=True)
class Bin:
    """Answers that belong together: mean of what they were sorted by, and what was found of them."""

    at: float
    found: Estimate


@dataclass(frozen=True)
class Range:
    """Consecutive versions: the first and the last, until when they answered (ns), how often, and how well.

    ``loss`` and ``baseline`` are float64[3], NaN where nothing was scored; the baseline is the hardest of the window.
    """

    first: int
    last: int
    until: int
    n: int
    loss: Floats
    baseline: Floats


@dataclass(frozen=True)
class Card:
    """One line's answers to the ``t`` places of a window.

    Attributes
    ----------
    instrument : which line
    since, until : the window ``(since, until]`` of the vectors' times, ns
    lag : places over which outcomes overlap: the horizon in bars
    predicted, actual, losses : float64[t, 3]
    yardsticks : losses of those who knew as much, float64[t, 3] each
    version : int64[t], 0 where nothing was answered
    age : float64[t], seconds of event time between the newest label that the version knew and the question
    vectors, answered : vectors that landed, and how many of them were answered
    unread : why a yardstick is not there
    """

    instrument: str
    since: int
    until: int
    lag: int
    predicted: Floats
    actual: Floats
    losses: Floats
    yardsticks: dict[str, Floats]
    version: Ints
    age: Floats
    vectors: int
    answered: int
    unread: str = ""

    def loss(self, k: int) -> Estimate | None:
        """Return the mean loss of target ``k``."""
        return confidence.mean(self.losses[:, k], self.lag)

    def skill(self, k: int, yardstick: str) -> Estimate | None:
        """Return the skill of target ``k`` against a yardstick."""
        return confidence.skill(self.losses[:, k], self.yardsticks[yardstick][:, k], self.lag)

    def slope(self, k: int) -> Estimate | None:
        """Return the slope of outcome over prediction of target ``k``, 1 where predictions are calibrated."""
        return confidence.slope(self.predicted[:, k], self.actual[:, k], self.lag)

    def hardest(self, k: int) -> str:
        """Return the simple forecast that was best for target ``k`` in this window."""
        scored = np.isfinite(self.losses[:, k])
        return min(BASELINES, key=lambda name: float(self.yardsticks[name][scored, k].sum()))

    def reliability(self, k: int) -> list[Bin]:
        """Return the mean outcome of target ``k`` by tenths of the predictions, lowest predictions first."""
        said = np.where(np.isfinite(self.actual[:, k]), self.predicted[:, k], np.nan)
        known = np.isfinite(said)
        edges = np.quantile(said[known], np.linspace(0.0, 1.0, BINS + 1)[1:-1]) if known.any() else np.empty(0)
        which = np.searchsorted(edges, said)
        return self._bins(self.actual[:, k], said, [known & (which == b) for b in range(BINS)])

    def by_age(self, k: int, interval_s: float) -> list[Bin]:
        """Return the mean loss of target ``k`` by model age, youngest first; bins are at ages in seconds."""
        edges = [interval_s * age for age in (*AGES, np.inf)]
        return self._bins(self.losses[:, k], self.age, [(a <= self.age) & (self.age < b) for a, b in pairwise(edges)])

    def ranges(self) -> list[Range]:
        """Return ranges of versions with about as many answers each, oldest first; at most ``RANGES``."""
        hardest = np.stack([self.yardsticks[self.hardest(k)][:, k] for k in range(len(TARGETS))], axis=1)
        versions, which, n = np.unique(self.version, return_inverse=True, return_counts=True)
        n = np.where(versions == 0, 0, n)
        group = (RANGES * (np.cumsum(n) - n) // max(1, int(n.sum())))[which]
        group[self.version == 0] = -1
        return [self._range(group == g, hardest) for g in np.unique(group[group >= 0])]

    def versions(self, newest: int) -> list[Range]:
        """Return the newest versions one by one, newest first."""
        hardest = np.stack([self.yardsticks[self.hardest(k)][:, k] for k in range(len(TARGETS))], axis=1)
        numbers = np.unique(self.version[self.version > 0])[::-1][:newest]
        return [self._range(self.version == number, hardest) for number in numbers]

    def _range(self, rows: Flags, baseline: Floats) -> Range:
        numbers = self.version[rows]
        until = self.since + (int(np.flatnonzero(rows)[-1]) + 1) * (self.until - self.since) // len(self.version)
        means = [np.array([_mean(of[rows, k]) for k in range(len(TARGETS))]) for of in (self.losses, baseline)]
        return Range(int(numbers.min()), int(numbers.max()), until, int(rows.sum()), *means)

    def _bins(self, values: Floats, by: Floats, masks: list[Flags]) -> list[Bin]:
        out = []
        for mask in masks:
            found = confidence.mean(np.where(mask, values, np.nan), self.lag)
            if found is not None:
                out.append(Bin(float(by[mask & np.isfinite(values)].mean()), found))
        return out


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
