"""A whole history in two ways: in one piece, and as a batch prefix with a streamed suffix, by the domain alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from domain.bars import BAR_COLUMNS, CLOSE, MISSING, BarState, add_candles, add_trades, close_until
from domain.checkpoint import Checkpoint
from domain.config import Model
from domain.features import FEATURES, examples, vectors
from domain.fleet import Line
from domain.pipeline import Pipeline, lead
from domain.tables import BarTable, ExampleTable, TradeTable, VectorTable
from domain.tape import merge, ready_until
from tests.domain.samples import KEY, LINEAR, RLS, SECOND, cut, joined

NO_BARS = BarTable(np.empty(0, np.int64), np.empty((0, len(BAR_COLUMNS))))


@dataclass(frozen=True)
class Setting:
    """What a history is turned into; ``lateness`` is not used where it is candles."""

    interval: int = SECOND
    lateness: int = 2 * SECOND
    horizon: int = 5 * SECOND
    fleet: tuple[Model, ...] = (RLS, LINEAR)
    gaps: bool = False
    """Whether there are gaps longer than is ever filled, whose first events are refused."""

    def add(self, state: BarState, events: TradeTable | BarTable) -> BarTable:
        """Bars closed by some events, none of which may be refused."""
        if isinstance(events, TradeTable):
            bars, refused = add_trades(state, events, self.interval, self.lateness)
        else:
            bars, refused = add_candles(state, events, self.interval)
        assert self.gaps or not refused.any()
        return bars

    def state_at(self, bars: BarTable, start: int, events: TradeTable | BarTable | None = None) -> BarState:
        """The state just after ``start``, from the bars before it and, in a gap, the events since the last of them."""
        if not len(bars):
            return BarState.empty(self.interval, self.lateness)
        newest = int(np.flatnonzero(bars.values[:, MISSING] == 0)[-1])
        ts, close = int(bars.ts[newest]), float(bars.values[newest, CLOSE])
        if events is None or ts == start:
            return BarState.after(int(bars.ts[-1]), close, self.interval, self.lateness, ts)
        state = BarState.after(ts, close, self.interval, self.lateness)
        self.add(state, self.before(events, ts, start))
        close_until(state, start, self.interval)
        return state

    def before(self, events: TradeTable | BarTable, start: int, end: int) -> TradeTable | BarTable:
        """The events whose bars end in ``(start, end]``, in order of arrival."""
        if isinstance(events, TradeTable):
            return cut(events, (events.ts >= start) & (events.ts < end))
        return cut(events, (events.ts > start) & (events.ts <= end))


@dataclass
class Told:
    """All that came out, in order."""

    bars: BarTable
    vectors: VectorTable
    examples: ExampleTable
    line: Line
    served: list[bytes] = field(default_factory=list)


def in_one_piece(setting: Setting, events: TradeTable | BarTable, seam: int, end: int) -> Told:
    """Every step once, over everything; the training window ends at ``seam``."""
    state = BarState.empty(setting.interval, setting.lateness)
    bars = joined([setting.add(state, events), close_until(state, end, setting.interval)])
    asked = vectors(bars, 0, setting.interval)
    labelled = examples(bars, asked, 0, setting.horizon, setting.interval)
    line = Line("a:B", setting.fleet)
    line.advance(merge(cut(asked, asked.ts <= seam), cut(labelled, labelled.available <= seam)), seam)
    line.freeze()
    last = int(bars.ts[-1])
    served = line.advance(merge(cut(asked, asked.ts > seam), cut(labelled, labelled.available > seam)), last)
    return Told(bars, asked, labelled, line, [row.tobytes() for row in served])


def batch(setting: Setting, events: TradeTable | BarTable, windows: list[int]) -> Told:
    """A prefix as the backfill makes it: window by window, each from the rows of those before; then the training."""
    told = Told(
        NO_BARS, vectors(NO_BARS, 0, 1), examples(NO_BARS, vectors(NO_BARS, 0, 1), 0, 1, 1), Line("a:B", setting.fleet)
    )
    start = 0
    for end in windows:
        state = setting.state_at(told.bars, start, events)
        fresh = [setting.add(state, setting.before(events, start, end)), close_until(state, end, setting.interval)]
        told.bars = joined([told.bars, *fresh])
        reach = start - lead(setting.horizon, setting.interval) * setting.interval
        bars = cut(told.bars, told.bars.ts > reach)
        told.vectors = joined([told.vectors, vectors(bars, start, setting.interval)])
        asked = cut(told.vectors, told.vectors.ts > start - setting.horizon)
        told.examples = joined([told.examples, examples(bars, asked, start, setting.horizon, setting.interval)])
        start = end
    told.line.advance(merge(told.vectors, told.examples), start)
    told.line.freeze()
    return told


def stream(setting: Setting, told: Told, events: TradeTable | BarTable, end: int, sizes: list[int], saves: int) -> None:
    """Go on from where ``told`` stands, a few events a call, saving and loading everything at every ``saves``-th."""
    seam = told.line.watermark
    state = setting.state_at(told.bars, seam)
    keep = lead(setting.horizon, setting.interval)
    pipeline = Pipeline(
        setting.interval, setting.horizon, cut(told.bars, max(0, len(told.bars) - keep), len(told.bars))
    )
    asked, labelled = cut(told.vectors, 0, 0), cut(told.examples, 0, 0)
    at, call = 0, 0
    while at <= len(events):
        last_call = at == len(events)
        size = sizes[call % len(sizes)]
        if last_call:
            bars = close_until(state, end, setting.interval)
        else:
            bars = setting.add(state, cut(events, at, min(at + size, len(events))))
        fresh_asked, fresh_labelled = pipeline.extend(bars)
        told.bars = joined([told.bars, bars])
        told.vectors, told.examples = joined([told.vectors, fresh_asked]), joined([told.examples, fresh_labelled])
        asked, labelled = joined([asked, fresh_asked]), joined([labelled, fresh_labelled])
        until = int(told.bars.ts[-1]) if last_call else ready_until(asked, labelled)
        if until is not None:
            tape = merge(cut(asked, asked.ts <= until), cut(labelled, labelled.available <= until))
            told.served += [row.tobytes() for row in told.line.advance(tape, until)]
            asked, labelled = cut(asked, asked.ts > until), cut(labelled, labelled.available > until)
        if saves and call % saves == 0:
            probes = told.vectors.values[-4:].reshape(-1, len(FEATURES))
            data = Checkpoint(told.line, setting.interval, setting.horizon, probes=probes).to_bytes(KEY)
            told.line = Checkpoint.from_bytes(data, KEY).line
            state = state.copy()
            pipeline = Pipeline(
                setting.interval, setting.horizon, BarTable(pipeline.tail.ts.copy(), pipeline.tail.values.copy())
            )
        at = at + size if at + size < len(events) or last_call else len(events)
        call += 1
        if last_call:
            break
