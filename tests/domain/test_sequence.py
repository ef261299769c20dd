"""The sequence: what follows on the grid is believed, what is far ahead only when others say the same."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.sequence import AHEAD, CONFIRM, HELD, NEXT, OFF_GRID, REPEATED, judge

STEP = 10


def verdicts(*ts, newest=100):
    return judge(np.array(ts, np.int64), newest, STEP)[0].tolist()


def test_one_interval_after_another_is_believed_and_a_repetition_is_dropped():
    assert verdicts(110, 120, 110, 120, 130) == [NEXT, NEXT, REPEATED, REPEATED, NEXT]


def test_what_is_off_the_grid_or_before_the_epoch_is_refused():
    assert verdicts(111, 110, -10, 0) == [OFF_GRID, NEXT, OFF_GRID, OFF_GRID]


def test_a_stranger_far_ahead_is_held_and_refused_when_the_grid_goes_on():
    assert verdicts(110, 2**61 // STEP * STEP) == [NEXT, HELD]
    assert verdicts(110, 2**61 // STEP * STEP, 120, 130) == [NEXT, AHEAD, NEXT, NEXT]
    assert verdicts(200, 210, 110) == [AHEAD, AHEAD, NEXT]


def test_a_real_gap_is_believed_once_enough_records_in_a_row_say_so():
    after = [500 + STEP * k for k in range(CONFIRM + 2)]
    assert verdicts(110, *after) == [NEXT] * (CONFIRM + 3)
    assert verdicts(110, *after[: CONFIRM - 1]) == [NEXT] + [HELD] * (CONFIRM - 1)
    assert verdicts(110, 500, 900, 910, 920) == [NEXT, AHEAD, NEXT, NEXT, NEXT]


def test_a_repetition_within_what_is_held_does_not_count_twice():
    assert verdicts(500, 500, 500, 510, 500, 510) == [HELD, REPEATED, REPEATED, HELD, REPEATED, REPEATED]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 7, 50, -1, -4, 0.5, 10**9]), max_size=80),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_any_cut_and_any_restart_at_the_first_that_is_held_give_the_same_verdicts(jumps, sizes):
    ts, at = [], 100
    for jump in jumps:
        ts.append(int(at + jump * STEP))
        at = ts[-1] if 0 < jump < 100 and jump != 0.5 else at
    whole, newest = judge(np.array(ts, np.int64), 100, STEP)
    waiting, known, got, i, k = [], 100, {}, 0, 0
    while i < len(ts):
        rows = waiting + list(range(i, min(len(ts), i + sizes[k % len(sizes)])))
        found, known = judge(np.array([ts[r] for r in rows], np.int64), known, STEP)
        got |= dict(zip(rows, found.tolist(), strict=True))
        waiting = [r for r, verdict in zip(rows, found, strict=True) if verdict == HELD]
        assert len(waiting) < CONFIRM
        i, k = i + sizes[k % len(sizes)], k + 1
    assert [got[r] for r in range(len(ts))] == whole.tolist()
    assert known == newest
    believed = [ts[r] for r in range(len(ts)) if got[r] == NEXT]
    assert believed == sorted(set(believed))
