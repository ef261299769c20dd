"""What models are worth: the cards of what was served, and of a first training, drawn up from the feature store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assets.card import Card
from domain import baselines, guards
from domain.baselines import BaselineState
from domain.config import Project
from domain.errors import ArtifactRefused
from domain.evaluation import losses
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.fleet import Line
from domain.lines import BASELINES, FROZEN
from domain.tables import Floats, Ints
from domain.tape import Tape, merge
from warehouse.features import read_table, span, training_rows
from warehouse.lake import Lake
from warehouse.performance import answered, coverage
from warehouse.registry import Registry

PIECE_DAYS = 90
"""Days of the tape read at once: about 130,000 one-minute bars, some 60 MB."""

_STRIDE = 10_000


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
    first = registry.first(instrument)
    if first is None:
        return None, f"{instrument} has no first version"
    try:
        line = registry.open(first).line
    except ArtifactRefused as error:
        return None, str(error)
    asked = read_table(lake, "features", instrument, since, until)
    return (asked.ts, line.predict(asked.values)), ""
