"""Candles become bars: filled, refused and cut as trades are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import (
    AHEAD,
    BAR_COLUMNS,
    CONFIRM,
    MAX_FILL,
    OFF_GRID,
    TAKEN,
    BarState,
    add_candles,
)
from domain.bars import (
    LATE as TOO_LATE,
)
from domain.tables import BarTable
from tests.domain.samples import MINUTE, SECOND, START, cut, joined, same

LATE = 2 * SECOND
C = {name: i for i, name in enumerate(BAR_COLUMNS)}


def candle(minute, close, missing=0.0):
    return START + minute * MINUTE, [close, close + 1, close - 1, close, 2.0, 0.0, 0.0, 0.0, 0.0, missing]


def candles(*rows):
    return BarTable(np.array([r[0] for r in rows], np.int64), np.array([r[1] for r in rows]).reshape(len(rows), 10))


def test_gaps_between_candles_are_filled_forward_and_flagged_and_candles_pass_as_they_are():
    given_ = candles(candle(1, 10.0), candle(2, 11.0), candle(5, 12.0))
    bars, refused = add_candles(BarState.empty(MINUTE, 0), given_, MINUTE)
    assert not refused.any()
    assert bars.ts.tolist() == [START + k * MINUTE for k in range(1, 6)]
    assert bars.values[:, C["missing"]].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert bars.values[2:4, C["close"]].tolist() == [11.0, 11.0]
    assert bars.values[[0, 1, 4]].tolist() == given_.values.tolist()


def test_candles_old_doubled_off_the_grid_or_far_ahead_are_refused_one_by_one():
    off = (START + 4 * MINUTE + 1, candle(4, 1.0)[1])
    far = candle(3 + MAX_FILL + 1, 1.0)
    given_ = candles(candle(2, 10.0), candle(1, 1.0), candle(2, 1.0), off, far, candle(3, 11.0))
    bars, refused = add_candles(BarState.empty(MINUTE, 0), given_, MINUTE)
    assert refused.tolist() == [TAKEN, TOO_LATE, TOO_LATE, OFF_GRID, AHEAD, TAKEN]
    assert bars.values[:, C["close"]].tolist() == [10.0, 11.0]
    _, refused = add_candles(
        BarState.after(START + 2 * MINUTE, 10.0, MINUTE, 0), candles(candle(3 + MAX_FILL, 1.0)), MINUTE
    )
    assert not refused.any()


@settings(deadline=None, max_examples=30)
@given(minutes=st.lists(st.integers(-3, 60), max_size=40), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_cut_of_the_candles_into_calls_gives_the_same_bars(minutes, sizes):
    every = candles(*(candle(m, 100.0 + i) for i, m in enumerate(minutes)))
    whole, refused = add_candles(BarState.empty(MINUTE, 0), every, MINUTE)
    state, parts, bad, at, i = BarState.empty(MINUTE, 0), [whole.__class__(whole.ts[:0], whole.values[:0])], [], 0, 0
    while at < len(every):
        bars, no = add_candles(state, cut(every, at, at + sizes[i % len(sizes)]), MINUTE)
        parts.append(bars)
        bad += no.tolist()
        at += sizes[i % len(sizes)]
        i += 1
    assert bad == refused.tolist()
    assert same(joined(parts), whole)
    assert (np.diff(whole.ts) == MINUTE).all()
    newest = [m for i, m in enumerate(minutes) if m > max(minutes[:i], default=-99)]
    assert (refused == TAKEN).sum() == len(newest)


def test_candles_after_a_real_gap_open_anew_wherever_they_are_cut():
    gap = MAX_FILL + 50
    every = candles(candle(1, 10.0), candle(2, 11.0), *(candle(gap + k, 20.0 + k) for k in range(20)))
    whole, fates = add_candles(BarState.empty(MINUTE, 0), every, MINUTE)
    assert fates.tolist() == [TAKEN] * 2 + [AHEAD] * (CONFIRM - 1) + [TAKEN] * (20 - CONFIRM + 1)
    assert len(whole) == 2 + MAX_FILL + 20 - CONFIRM + 1
    assert (np.diff(whole.ts) != MINUTE).sum() == 1
    state = BarState.empty(MINUTE, 0)
    parts = [add_candles(state, cut(every, i, i + 1), MINUTE)[0] for i in range(len(every))]
    assert same(joined(parts), whole)
