"""Guards: what a row may be before anything learns from it, and what an answer may be before anybody hears it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import guards
from domain.errors import BadState
from domain.features import FEATURES, TARGETS
from domain.fleet import Line
from domain.guards import FEATURE_RANGE, LABEL_REACH, TARGET_RANGE, WARM_UP, GuardState
from domain.tape import Tape
from tests.domain.samples import LINEAR, LOGISTIC, RLS, pieces, tape_of, walk

TAPE = tape_of(walk(41, 1_500))
K = TARGETS.index("price_change")


def changed(tape, i, x=None, y=None):
    """The tape with one row's features or targets multiplied or replaced."""
    xs, ys = tape.x.copy(), tape.y.copy()
    if x is not None:
        xs[i] = x
    if y is not None:
        ys[i] = y
    return Tape(tape.asks, tape.ts, xs, ys)


def test_an_honest_market_passes_the_fixed_ranges_bit_for_bit():
    kept = guards.bounded(TAPE)
    assert kept.x.tobytes() == TAPE.x.tobytes()
    assert kept.y.tobytes() == TAPE.y.tobytes()


@given(st.sampled_from([1e6, 1e300, -1e300, math.inf, -math.inf]), st.integers(0, 2))
def test_a_target_that_no_market_could_make_is_held_at_the_edge_of_what_it_can_be(value, k):
    i = int(np.flatnonzero(~TAPE.asks)[700])
    y = TAPE.y[i].copy()
    y[k] = value
    held = guards.bounded(changed(TAPE, i, y=y)).y[i, k]
    assert held == TARGET_RANGE[k, int(value > 0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_with_a_feature_that_is_not_finite_touches_nothing(value):
    line = Line("a:B", (RLS, LINEAR, LOGISTIC))
    line.advance(TAPE, 1)
    before = line.digest()
    x = TAPE.x[5].copy()
    x[3] = value
    with pytest.raises(BadState, match="not finite"):
        line.advance(changed(TAPE, 5, x=x), 2)
    assert line.digest() == before


def test_one_wild_label_teaches_no_more_than_one_at_the_reach():
    wild, bound = GuardState.empty(), GuardState.empty()
    last = int(np.flatnonzero(~TAPE.asks)[-1])
    before = GuardState.empty()
    guards.winsorised(before, Tape(*(column[:last] for column in vars(TAPE).values())))
    n, mean, squares = before.labels[:, K]
    edge = mean + LABEL_REACH * math.sqrt(squares / n)
    y = TAPE.y[last].copy()
    y[K] = 9e3
    first = guards.winsorised(wild, changed(TAPE, last, y=y))
    y[K] = edge
    second = guards.winsorised(bound, changed(TAPE, last, y=y))
    assert first.y[last, K] == second.y[last, K] == edge
    assert wild.labels.tobytes() == bound.labels.tobytes()


def test_what_stood_still_through_the_warm_up_can_move_afterwards():
    x, y = np.zeros((400, len(FEATURES))), np.zeros((400, len(TARGETS)))
    x[150:], y[150:] = 1.0, 1.0
    tape = Tape(np.zeros(400, np.bool_), np.arange(400), x, y)
    kept = guards.winsorised(GuardState.empty(), tape)
    assert WARM_UP < 150
    assert (kept.x[-1] == 1.0).all()
    assert (kept.y[-1] == 1.0).all()


def test_flags_and_times_of_day_are_left_as_they_are():
    x = np.zeros((1_000, len(FEATURES)))
    weekend = FEATURES.index("weekend")
    x[999, weekend] = 1.0
    kept = guards.winsorised(GuardState.empty(), Tape(np.zeros(1_000, np.bool_), np.arange(1_000), x, x[:, :3]))
    assert kept.x[999, weekend] == 1.0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 300), min_size=1, max_size=4), st.floats(0, 0.05))
def test_any_cut_of_the_tape_gives_the_same_rows_and_questions_change_nothing(seed, sizes, wild):
    rng = np.random.default_rng(seed)
    x, y = TAPE.x.copy(), TAPE.y.copy()
    x[rng.random(x.shape) < wild] *= 1e5
    y[rng.random(y.shape) < wild] *= 1e5
    tape = guards.bounded(Tape(TAPE.asks, TAPE.ts, x, y))
    whole, parts = GuardState.empty(), GuardState.empty()
    expected = guards.winsorised(whole, tape)
    got = []
    for piece in pieces(tape, sizes):
        before = [a.tobytes() for a in vars(parts).values()]
        guards.questions(parts, piece.x)
        assert [a.tobytes() for a in vars(parts).values()] == before
        got.append(guards.winsorised(parts, piece))
    assert np.concatenate([g.x for g in got]).tobytes() == expected.x.tobytes()
    assert np.concatenate([g.y for g in got]).tobytes() == expected.y.tobytes()
    assert np.isfinite(expected.x).all()


def test_an_answer_that_is_not_finite_is_none_and_one_that_is_absurd_is_held():
    said = guards.believable(np.array([[math.inf, 0.4, -1e300], [3.0, math.nan, 2.0], [-1e200, 7.0, -math.inf]]))
    low, high = TARGET_RANGE.T
    np.testing.assert_array_equal(said, [[math.nan, 0.4, low[2]], [3.0, math.nan, 2.0], [low[0], high[1], math.nan]])


@pytest.mark.parametrize("k", [0, 2])
def test_a_spike_of_a_million_in_a_target_does_not_wreck_any_model(k):
    """Compared with a line that never saw it: the mean squared error over the next 700 answers."""
    tape = tape_of(walk(5, 2_000))
    answers = np.flatnonzero(~tape.asks)
    hit = int(answers[900])
    y = tape.y[hit].copy()
    y[k] = 1e6
    calm, hurt = Line("a:B", (RLS, LINEAR)), Line("a:B", (RLS, LINEAR))
    for line, rows in ((calm, tape), (hurt, changed(tape, hit, y=y))):
        line.advance(Tape(*(c[: hit + 1] for c in vars(rows).values())), 1)
    rest = [Tape(*(c[hit + 1 :] for c in vars(tape).values())) for _ in range(2)]
    actual = tape.y[answers[answers > hit], 2 * (k == 2)]
    losses = []
    for line, rows in zip((calm, hurt), rest, strict=True):
        said = line.advance(rows, 2)[: len(actual), k]
        losses.append(np.mean((said[-700:] - actual[-len(said[-700:]) :]) ** 2))
    assert losses[1] < 1.1 * losses[0]


def test_a_spike_in_a_feature_moves_a_prediction_no_further_than_its_reach():
    line = Line("a:B", (RLS, LINEAR))
    line.advance(TAPE, 1)
    x = TAPE.x[-1:].repeat(2, axis=0)
    x[:, FEATURES.index("ret1")] = (1e6, 1e300)
    first, second = line.predict(x)
    assert first.tobytes() == second.tobytes()
    assert (np.abs(FEATURE_RANGE) < 2e4).all()
