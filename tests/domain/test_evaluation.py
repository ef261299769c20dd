"""River's ``simulate_qa`` is the oracle of the order in which a model is asked, told and scored."""

import math

import numpy as np
import pytest
from river import stream

from domain import evaluation, guards, zoo
from domain.evaluation import HALF_LIFE, ScoreState, loss_of, skill, summary
from domain.features import FEATURES, TARGETS
from domain.fleet import Line
from domain.guards import GuardState
from domain.tape import Tape, merge
from tests.domain.samples import LINEAR, LOGISTIC, MINUTE, RLS, pieces, rows_of, walk

HORIZON = 5 * MINUTE
BARS = walk(31, 800)
BARS.values[400:420, :4] = 100.0  # a market that stands still: directions without an answer
ASKED, ANSWERED = rows_of(BARS)


def by_simulate_qa(model, target):
    """Losses of a River estimator driven by hand through ``simulate_qa``, on rows that passed the guards."""
    estimator, k = zoo.build(model.estimator), TARGETS.index(target)
    held = guards.winsorised(GuardState.empty(), guards.bounded(own_tape()))
    lowest, highest = guards.TARGET_RANGE[k].tolist()
    classifies = target == "direction"
    rows = zip(ANSWERED.ts.tolist(), ANSWERED.values.tolist(), ANSWERED.targets[:, k].tolist(), strict=True)
    dataset = ((dict(zip(FEATURES, x, strict=True)) | {"ts": ts}, y) for ts, x, y in rows)
    said, total, n, order = {}, 0.0, 0, []
    for i, x, y in stream.simulate_qa(dataset, moment="ts", delay=HORIZON):
        ts, at = x["ts"], len(order)
        row = dict(zip(FEATURES, held.x[at].tolist(), strict=True))
        order.append((ts, y is None))
        if y is None:
            answer = estimator.predict_proba_one(row).get(True, 0.5) if classifies else estimator.predict_one(row)
            said[i] = min(max(answer, lowest), highest)
            continue
        if math.isnan(y):
            continue
        p = said.pop(i)
        if classifies:
            p = min(max(p, 1e-6), 1 - 1e-6)
            total += -math.log(p) if y else -math.log(1 - p)
        else:
            total += (p - y) * (p - y)
        n += 1
        estimator.learn_one(row, bool(y) if classifies else held.y[at, k].item())
    return total, n, order


def own_tape():
    """The tape of just the vectors that have a label, as the oracle's data set holds no others."""
    keep = np.isin(ASKED.ts, ANSWERED.ts)
    return merge(type(ASKED)(ASKED.ts[keep], ASKED.values[keep]), ANSWERED)


def test_the_tape_is_in_the_order_of_simulate_qa():
    _, _, order = by_simulate_qa(LINEAR, "volatility")
    tape = own_tape()
    assert order == list(zip(tape.ts.tolist(), tape.asks.tolist(), strict=True))


@pytest.mark.parametrize(
    ("model", "target"), [(LINEAR, "volatility"), (LINEAR, "price_change"), (LOGISTIC, "direction")]
)
def test_progressive_losses_are_exactly_those_of_simulate_qa(model, target):
    line = Line("a:B", (RLS, LINEAR, LOGISTIC))
    for piece in pieces(own_tape(), [17, 1, 100]):
        line.advance(piece, int(piece.ts[-1]))
    total, n, _ = by_simulate_qa(model, target)
    got = line.scores()[target][model.name]
    assert n < len(ANSWERED) if target == "direction" else n == len(ANSWERED)
    assert (got["n"], got["loss"]) == (n, total / n)


def test_scoring_just_before_learning_would_look_ahead_and_give_other_numbers():
    estimator, total = zoo.build(LINEAR.estimator), 0.0
    for x, y in zip(ANSWERED.values.tolist(), ANSWERED.targets[:, 2].tolist(), strict=True):
        row = dict(zip(FEATURES, x, strict=True))
        total += (estimator.predict_one(row) - y) ** 2
        estimator.learn_one(row, y)
    honest, _, _ = by_simulate_qa(LINEAR, "volatility")
    assert abs(total / honest - 1) > 1e-3


def small_tape(steps):
    """Steps of (time, None) for a question and (time, label) for an answer."""
    y = np.array([[label] * 3 if label is not None else [np.nan] * 3 for _, label in steps])
    asks = np.array([label is None for _, label in steps])
    return Tape(asks, np.array([t for t, _ in steps]), np.zeros((len(steps), len(FEATURES))), y)


def scored(steps, predicted, since=0):
    state = ScoreState.empty(1)
    evaluation.score(state, small_tape(steps), np.array(predicted, np.float64).reshape(-1, 1, 3), since)
    return state


def test_an_answer_scores_the_prediction_made_when_its_vector_was_asked():
    state = scored([(1, None), (2, None), (1, 0.0), (3, None), (2, 1.0)], [[0.3] * 3, [0.4] * 3, [0.9] * 3])
    assert state.counts[0].tolist() == [2.0, 2.0, 2.0]
    assert state.losses[0].tolist() == pytest.approx([0.3**2 + 0.6**2, -math.log(0.7) - math.log(0.4), 0.45])


def test_questions_of_the_training_window_and_answers_without_a_question_are_not_scored():
    assert scored([(1, None), (1, 0.0)], [[0.5] * 3], since=1).counts.sum() == 0
    assert scored([(2, None), (2, 0.0)], [[0.5] * 3], since=1).counts.sum() == 3
    assert scored([(2, None), (1, 0.0), (3, 1.0)], [[0.5] * 3]).counts.sum() == 0


def test_where_there_is_no_label_or_no_prediction_there_is_no_score():
    state = scored([(1, None), (2, None), (1, 1.0), (2, math.nan)], [[0.5, math.nan, 0.5], [0.5] * 3])
    assert state.counts[0].tolist() == [1.0, 0.0, 1.0]
    assert summary(state, ("only",))["direction"] == {}


def test_the_log_loss_of_certainty_is_bounded():
    k = TARGETS.index("direction")
    assert loss_of(k, 0.0, 1.0) == loss_of(k, -5.0, 1.0) == pytest.approx(-math.log(1e-6))
    assert loss_of(k, 1.0, 1.0) == pytest.approx(0.0, abs=2e-6)
    assert loss_of(k, 0.25, 0.0) == -math.log(0.75)


def test_the_recent_loss_halves_what_lies_a_half_life_back():
    n = HALF_LIFE
    steps = [step for t in range(1, 2 * n + 1) for step in ((t, None), (t, 0.0))]
    predicted = [[2.0, 0.5, 0.0]] * n + [[0.0, 0.5, 0.0]] * n
    got = summary(scored(steps, predicted), ("only",))["price_change"]["only"]
    # weights of the older half: 1/2 - 1/4; of all: 1 - 1/4
    assert got["recent_loss"] == pytest.approx(4.0 * 0.25 / 0.75, rel=1e-9)
    assert got["loss"] == pytest.approx(2.0)


def test_skill_is_zero_at_the_baseline_and_one_when_perfect():
    assert skill(2.0, 2.0) == 0.0
    assert skill(0.0, 2.0) == 1.0
    assert skill(3.0, 2.0) == -0.5
    assert skill(1.0, 0.0) is None
