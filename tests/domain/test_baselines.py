import math

import numpy as np
import pytest

from domain import baselines
from domain.baselines import ENOUGH, RING, BaselineState
from domain.features import FEATURES, TARGETS
from domain.lines import BASELINES
from tests.domain.samples import MINUTE, cut, pieces, tape_of, walk

TAPE = tape_of(walk(21, 900))
MEAN, PERSISTENCE, EWMA = (BASELINES.index(name) for name in ("mean", "persistence", "ewma"))


def slow(tape, fixed_at=None):
    """The three baselines in plain python, from lists of everything that was said so far."""
    labels, questions, pairs, moves, out, answered = [[], [], []], {}, [[], [], []], [], [], 0
    edges = (0.01, 0.99)
    for i in range(len(tape)):
        ts, x, y = int(tape.ts[i]), tape.x[i], tape.y[i]
        if tape.asks[i]:
            row = np.zeros((3, 3))
            averages = []
            for k, known in enumerate(labels):
                weights = [0.5 ** (age / 10.0) for age in range(len(known))][::-1]
                average = sum(w * v for w, v in zip(weights, known, strict=True)) / sum(weights) if known else 0.0
                averages.append(float(x[FEATURES.index("ew10")]) if TARGETS[k] == "volatility" else average)
                slope, level = 0.0, 0.0
                if pairs[k]:
                    e, v = np.array(pairs[k]).T
                    slope = np.cov(e, v, bias=True)[0, 1] / np.var(e) if np.var(e) > 0 else 0.0
                    level = v.mean() - slope * e.mean()
                row[:, k] = (np.mean(known) if known else 0.0, known[-1] if known else 0.0, level + slope * averages[k])
            up_before = bool(labels[1]) and labels[1][-1] == 1.0
            after = [rose for before, rose in moves if before == up_before]
            row[MEAN, 1] = np.clip(row[MEAN, 1], *edges) if labels[1] else 0.5
            row[PERSISTENCE, 1] = (sum(after) + 1) / (len(after) + 2)
            row[EWMA, 1] = np.clip(row[EWMA, 1], *edges) if len(pairs[1]) >= 2 else 0.5
            questions[ts] = averages, up_before
            out.append(row)
            continue
        for k in np.flatnonzero(~np.isnan(y)):
            if ts in questions:
                if fixed_at is None or answered < fixed_at:
                    pairs[k].append((questions[ts][0][k], y[k]))
                if k == 1:
                    moves.append((questions[ts][1], y[k]))
            labels[k].append(float(y[k]))
        answered += 1
    return np.array(out)


def test_each_baseline_is_what_plain_python_computes_from_all_it_was_told():
    np.testing.assert_allclose(baselines.advance(BaselineState.empty(), TAPE), slow(TAPE), rtol=1e-9, atol=1e-9)


def test_calibration_ends_with_the_training_window():
    answers = np.cumsum(~TAPE.asks)
    seam = int(np.searchsorted(answers, 200)) + 1
    state = BaselineState.empty()
    first = baselines.advance(state, cut(TAPE, 0, seam))
    state.fix()
    line = state.calibration.copy()
    second = baselines.advance(state, cut(TAPE, seam, len(TAPE)))
    assert state.calibration.tobytes() == line.tobytes()
    np.testing.assert_allclose(np.concatenate([first, second]), slow(TAPE, fixed_at=200), rtol=1e-9, atol=1e-9)


def test_a_line_that_starts_cold_goes_on_calibrating():
    state = BaselineState.empty()
    state.fix()
    assert baselines.advance(state, TAPE).tobytes() == baselines.advance(BaselineState.empty(), TAPE).tobytes()
    state.fix()
    assert (state.calibration[0] > ENOUGH).all()
    assert (state.calibration[-1] == 1.0).all()


def test_answers_a_horizon_of_a_full_window_later_still_find_their_questions():
    assert RING > 240
    tape = tape_of(walk(22, 900), horizon=240 * MINUTE)
    np.testing.assert_allclose(baselines.advance(BaselineState.empty(), tape), slow(tape), rtol=1e-9, atol=1e-9)


def test_an_answer_whose_question_was_never_asked_teaches_the_means_and_calibrates_nothing():
    answers = cut(TAPE, ~TAPE.asks)
    state = BaselineState.empty()
    baselines.advance(state, answers)
    assert state.labels[0, 0] == len(answers)
    assert not state.calibration.any()


def test_before_any_label_a_direction_is_even_and_every_forecast_is_finite():
    first = baselines.advance(BaselineState.empty(), cut(TAPE, 0, 1))[0]
    assert first[:, 1].tolist() == [0.5, 0.5, 0.5]
    assert np.isfinite(first).all()


@pytest.mark.parametrize("sizes", [[1], [5, 64, 2]])
def test_any_cut_of_the_tape_gives_the_same_forecasts_and_a_copy_is_its_own(sizes):
    whole, parts = BaselineState.empty(), BaselineState.empty()
    expected = baselines.advance(whole, TAPE)
    got = np.concatenate([baselines.advance(parts, piece) for piece in pieces(TAPE, sizes)])
    assert got.tobytes() == expected.tobytes()
    for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert a.tobytes() == b.tobytes()
    copy = whole.copy()
    baselines.advance(copy, TAPE)
    assert whole.labels.tobytes() == parts.labels.tobytes()
    assert math.isclose(copy.labels[0, 0], 2 * whole.labels[0, 0])
