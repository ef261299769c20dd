"""What served models are worth: their answers beside what then happened, and beside what a simple average would say.

All series of a card lie on one even grid of time, a place a bar, NaN where there is nothing: so that the intervals of
``domain.confidence`` know which rows are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from domain import baselines, confidence, guards
from domain.baselines import BaselineState
from domain.confidence import Estimate
from domain.config import Project
from domain.errors import ArtifactRefused
from domain.evaluation import losses
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.features import TARGETS
from domain.fleet import Line
from domain.lines import BASELINES, FROZEN
from domain.tables import Flags, Floats, Ints
from domain.tape import Tape, merge
from warehouse.features import read_table, span, training_rows
from warehouse.lake import Lake
from warehouse.performance import answered, coverage
from warehouse.registry import Registry

PIECE_DAYS = 90
"""Days of the tape read at once: about 130,000 one-minute bars, some 60 MB."""

BINS = 10
RANGES = 50
"""Ranges of versions told apart: there is a version a second, and more points than these no picture shows."""

AGES = (0, 1, 2, 5, 15, 60, 240)
"""Lower edges of the bins of model age, bars: fresh ones apart by the bar, stale ones by the hour."""

_STRIDE = 10_000


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


def served_card(lake: Lake, project: Project, instrument: str, hours: int, registry: Registry | None) -> Card | None:
    """Return the card of what was served in the ``hours`` of event time before the newest label.

    Parameters
    ----------
    registry : of the first version, which is then asked the same questions (yardstick ``frozen``); None leaves it out

    Returns
    -------
    Card or None
        None when nothing that was served in the window has an outcome by now.
    """
    labels, served = span(lake, "examples", instrument), span(lake, "predictions", instrument)
    if labels is None or served is None:
        return None
    until = labels[1] - project.horizon
    since = max(until - hours * 3600 * NANOS_PER_SECOND, served[0] - project.interval)
    rows = answered(lake, instrument, since, until)
    if not len(rows):
        return None
    grid = _Grid(since, until, project.interval)
    ts, said = _yardsticks(lake, instrument, since, until)
    outcome = read_table(lake, "examples", instrument, since + project.horizon, until + project.horizon)
    actual = grid.place(outcome.ts, outcome.targets)
    yardsticks = {name: losses(grid.place(ts, said[:, b]), actual) for b, name in enumerate(BASELINES)}
    unread = ""
    if registry is not None:
        frozen, unread = _frozen(lake, registry, instrument, since, until)
        yardsticks |= {} if frozen is None else {FROZEN: losses(grid.place(*frozen), actual)}
    predicted = grid.place(rows.ts, rows.predicted)
    version = np.nan_to_num(grid.place(rows.ts, rows.version.astype(np.float64))).astype(np.int64)
    return Card(
        instrument=instrument,
        since=since,
        until=until,
        lag=project.horizon // project.interval,
        predicted=predicted,
        actual=actual,
        losses=losses(predicted, actual),
        yardsticks=yardsticks,
        version=version,
        age=grid.place(rows.ts, (rows.ts - rows.watermark) / NANOS_PER_SECOND),
        vectors=(found := coverage(lake, instrument, since, until))[0],
        answered=found[1],
        unread=unread,
    )


def training_card(lake: Lake, project: Project, instrument: str, start: int, until: int) -> Card | None:
    """Return the card of a first training over ``(start, until]`` (ns), of its second half: the first one warms it up.

    Notes
    -----
    The training is done once more, without challengers; every vector is answered before its outcome is known.
    """
    rows = training_rows(lake, instrument, start, until)
    if not len(rows.examples):
        return None
    line = Line(instrument, project.fleet)
    line = Line(instrument, tuple(model for model in project.fleet if model.name in line.champions.values()))
    tape = merge(rows.vectors, rows.examples)
    pieces = [slice(at, at + _STRIDE) for at in range(0, len(tape), _STRIDE)]
    said = [line.advance(Tape(tape.asks[p], tape.ts[p], tape.x[p], tape.y[p]), until) for p in pieces]
    simple = baselines.advance(BaselineState.empty(), guards.bounded(tape))
    first, last = int(rows.vectors.ts[0]), int(rows.examples.ts[-1])
    since = first + (last - first) // 2 // project.interval * project.interval
    grid = _Grid(since, last, project.interval)
    actual = grid.place(rows.examples.ts, rows.examples.targets)
    predicted = grid.place(tape.ts[tape.asks], np.concatenate(said))
    yardsticks = {
        name: losses(grid.place(tape.ts[tape.asks], simple[:, b]), actual) for b, name in enumerate(BASELINES)
    }
    n = len(actual)
    return Card(
        instrument=instrument,
        since=since,
        until=last,
        lag=project.horizon // project.interval,
        predicted=predicted,
        actual=actual,
        losses=losses(predicted, actual),
        yardsticks=yardsticks,
        version=np.ones(n, np.int64),
        age=np.zeros(n),
        vectors=n,
        answered=n,
    )


@dataclass(frozen=True)
class _Grid:
    since: int
    until: int
    interval: int

    def place(self, ts: Ints, values: Floats) -> Floats:
        """Return the rows at their places, NaN elsewhere; rows outside of the window are left out."""
        out = np.full(((self.until - self.since) // self.interval, *values.shape[1:]), np.nan)
        inside = (ts > self.since) & (ts <= self.until)
        out[(ts[inside] - self.since) // self.interval - 1] = values[inside]
        return out


def _yardsticks(lake: Lake, instrument: str, since: int, until: int) -> tuple[Ints, Floats]:
    """Return the times of the window's questions and the baselines' answers, float64[q, 3 baselines, 3].

    They follow the lake's whole tape, as a line's own do; their calibration is fixed where the window begins.
    """
    state, known = BaselineState.empty(), span(lake, "features", instrument)
    begin = since if known is None else min(since, known[0] - 1)
    piece = PIECE_DAYS * NANOS_PER_DAY
    for start in range(begin, since, piece):
        baselines.advance(state, _tape(lake, instrument, start, min(start + piece, since)))
    state.fix()
    ts, said = [], []
    for start in range(since, until, piece):
        tape = _tape(lake, instrument, start, min(start + piece, until))
        ts.append(tape.ts[tape.asks])
        said.append(guards.believable(baselines.advance(state, tape)))
    return np.concatenate(ts), np.concatenate(said)


def _tape(lake: Lake, instrument: str, start: int, end: int) -> Tape:
    snapshot = lake.snapshot()
    asked = read_table(lake, "features", instrument, start, end, snapshot=snapshot)
    return guards.bounded(merge(asked, read_table(lake, "examples", instrument, start, end, snapshot=snapshot)))


def _frozen(
    lake: Lake, registry: Registry, instrument: str, since: int, until: int
) -> tuple[tuple[Ints, Floats] | None, str]:
    """Return what the line's first version answers to the window's vectors, or why it cannot be asked."""
    first = registry.get(instrument, 1)
    if first is None:
        return None, f"{instrument} has no first version"
    try:
        line = registry.open(first).line
    except ArtifactRefused as error:
        return None, str(error)
    asked = read_table(lake, "features", instrument, since, until)
    return (asked.ts, line.predict(asked.values)), ""


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
