"""What an undisturbed run gives: each row of the day once, and the model's digest at any time, in one pass."""

from __future__ import annotations

import numpy as np

from domain.bars import BarState, add_candles, add_trades
from domain.config import Project
from domain.features import examples, vectors
from domain.fleet import Line
from domain.tables import TradeTable
from domain.tape import Tape, merge
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET
from streaming import codec
from tests.simulation.market import Market

STRIDE = 120
"""Steps between two kept states of the model: how far the oracle walks again when it is asked about the past."""


class Oracle:
    """One instrument's day.

    Attributes
    ----------
    records : topic -> the stream's records in order, as bytes
    times : topic -> when each could first be known, ns
    place : topic -> record -> its place in that order
    """

    def __init__(self, project: Project, market: Market, instrument: str) -> None:
        events = market.tables[instrument]
        lateness = project.lateness if isinstance(events, TradeTable) else 0
        state = BarState.empty(project.interval, lateness)
        if isinstance(events, TradeTable):
            self.bars, refused = add_trades(state, events, project.interval, project.lateness)
        else:
            self.bars, refused = add_candles(state, events, project.interval)
        assert not refused.any()
        self.vectors = vectors(self.bars, 0, project.interval)
        self.examples = examples(self.bars, self.vectors, 0, project.horizon, project.interval)
        self.seam, self.last = market.opens, int(self.bars.ts[-1])
        self._tape = merge(self.vectors, self.examples)
        self._when = self._tape.ts + np.where(self._tape.asks, 0, project.horizon)
        self.answers = self.examples.available
        self._line(project, instrument)
        self._records(project, instrument)

    def _line(self, project: Project, instrument: str) -> None:
        line = Line(instrument, project.fleet)
        line.advance(self._steps(0, self.seam), self.seam)
        line.freeze()
        self._project, self._instrument = project, instrument
        self._kept = {self.seam: ({k: v.copy() for k, v in line.arrays().items()}, line.n_learned)}
        self._line_now = line
        self._digests = {self.seam: line.digest()}

    def _records(self, project: Project, instrument: str) -> None:
        streamed = {
            BARS: (codec.encode_bars(instrument, self.bars), self.bars.ts),
            FEATURES: (codec.encode_vectors(instrument, self.vectors), self.vectors.ts),
            FEATURES_WITH_TARGET: (
                codec.encode_examples(instrument, self.examples, project.horizon_s),
                self.examples.available,
            ),
        }
        self.records, self.times, self.place = {}, {}, {}
        for topic, (values, ts) in streamed.items():
            first = int(np.searchsorted(ts, self.seam, side="right"))
            self.records[topic], self.times[topic] = values[first:], ts[first:]
            self.place[topic] = {value: i for i, value in enumerate(values[first:])}
        first = int(np.searchsorted(self.vectors.ts, self.seam, side="right"))
        self.x = dict(zip(self.vectors.ts[first:].tolist(), self.vectors.values[first:], strict=True))

    def _steps(self, after: int, until: int) -> Tape:
        a, b = np.searchsorted(self._when, (after, until), side="right")
        t = self._tape
        return Tape(t.asks[a:b], t.ts[a:b], t.x[a:b], t.y[a:b])

    def learned(self, until: int) -> int:
        """Return how many labels had matured by a time."""
        return int(np.searchsorted(self.answers, until, side="right"))

    def digest(self, until: int) -> str:
        """Return the digest of a line that has followed everything up to a time on the bars' grid."""
        if until in self._digests:
            return self._digests[until]
        line = self._line_now
        if line.watermark > until:
            mark = max(w for w in self._kept if w <= until)
            line = Line(self._instrument, self._project.fleet)
            arrays, line.n_learned = self._kept[mark]
            line.restore(arrays)
            line.watermark, line.since = mark, self.seam
        while line.watermark < until:
            step = min(until, line.watermark + STRIDE * self._project.interval)
            line.advance(self._steps(line.watermark, step), step)
            if step not in self._kept:
                self._kept[step] = ({k: v.copy() for k, v in line.arrays().items()}, line.n_learned)
        self._digests[until] = line.digest()
        if line.watermark > self._line_now.watermark:
            self._line_now = line
        return self._digests[until]
