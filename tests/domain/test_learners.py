import numpy as np
import pytest

from domain import zoo
from domain.config import Model
from domain.errors import UsageError
from domain.features import FEATURES, TARGETS
from domain.learners import create
from tests.domain.samples import LINEAR, LOGISTIC, RLS, cut, pieces, tape_of, walk

TAPE = tape_of(walk(41, 520))


def river(name, text, *targets):
    return Model(name=name, kind="river", targets=targets, estimator=text)


BAYES = river("bayes", "preprocessing.StandardScaler() | linear_model.BayesianLinearRegression()", "volatility")
FOREST = river("forest", "forest.ARFClassifier(n_models=2, seed=1)", "direction")
BANDIT = river(
    "bandit",
    "model_selection.BanditRegressor([linear_model.PARegressor(), tree.HoeffdingTreeRegressor()], metrics.MAE(),"
    " bandit.EpsilonGreedy(epsilon=0.3, seed=1))",
    "price_change",
)
MEMBERS = [RLS, LINEAR, LOGISTIC, BAYES, *(pytest.param(model, marks=pytest.mark.slow) for model in (FOREST, BANDIT))]
named = pytest.mark.parametrize("model", MEMBERS, ids=lambda model: model.name)


def digests(learner):
    return {n: a.tobytes() for n, a in learner.arrays().items() if n not in learner.digests()} | learner.digests()


@pytest.mark.parametrize(
    ("model", "target"),
    [(LINEAR, "price_change"), (LINEAR, "volatility"), (LOGISTIC, "direction"), (BAYES, "volatility")],
)
def test_a_river_member_says_exactly_what_plain_river_driven_by_hand_says(model, target):
    learner, by_hand, k = create(model), zoo.build(model.estimator), TARGETS.index(target)
    expected = []
    for asks, x, y in zip(TAPE.asks, TAPE.x.tolist(), TAPE.y[:, k].tolist(), strict=True):
        row = dict(zip(FEATURES, x, strict=True))
        if asks:
            expected.append(by_hand.predict_proba_one(row)[True] if model is LOGISTIC else by_hand.predict_one(row))
        elif y == y:  # noqa: PLR0124 - not NaN
            by_hand.learn_one(row, bool(y) if model is LOGISTIC else y)
    assert learner.advance(TAPE)[:, k].tolist() == expected


@named
def test_it_answers_for_its_own_targets_and_for_no_other(model):
    learner = create(model)
    for said in (learner.advance(TAPE), learner.predict(TAPE.x[:5])):
        assert said.shape[1] == 3
        for k, target in enumerate(TARGETS):
            assert np.isfinite(said[:, k]).all() if target in model.targets else np.isnan(said[:, k]).all()


@named
def test_any_cut_of_the_tape_and_any_number_of_saves_give_the_same_member(model):
    whole, parts = create(model), create(model)
    expected = whole.advance(TAPE)
    got = []
    for piece in pieces(TAPE, [1, 60, 9]):
        got.append(parts.advance(piece))
        again = create(model)
        again.restore({name: array.copy() for name, array in parts.arrays().items()})
        parts = again
    assert np.concatenate(got).tobytes() == expected.tobytes()
    assert digests(parts) == digests(whole)


@named
def test_prediction_is_pure(model):
    # Some of River's estimators keep notes while they predict; what was learned must not show it.
    quiet, asked = create(model), create(model)
    for piece in pieces(TAPE, [100]):
        quiet.advance(piece)
        asked.advance(piece)
        before = digests(asked)
        first = asked.predict(TAPE.x[:7])
        assert asked.predict(TAPE.x[:7]).tobytes() == first.tobytes()
        assert digests(asked) == before == digests(quiet)


@named
def test_predicting_is_what_advancing_would_have_said(model):
    learner = create(model)
    learner.advance(cut(TAPE, 0, 400))
    rest = cut(TAPE, 400, 420)
    asked = cut(rest, rest.asks)
    assert learner.predict(asked.x).tobytes() == learner.advance(asked).tobytes()


def test_a_restored_member_does_not_share_its_arrays():
    learner, again = create(RLS), create(RLS)
    learner.advance(TAPE)
    kept = {name: array.copy() for name, array in learner.arrays().items()}
    again.restore(learner.arrays())
    again.advance(TAPE)
    assert {n: a.tobytes() for n, a in kept.items()} == {n: a.tobytes() for n, a in learner.arrays().items()}


def test_a_challenger_that_blew_up_answers_nothing():
    wild = create(river("wild", "linear_model.LinearRegression(optimizer=optim.SGD(1e300))", "volatility"))
    said = wild.advance(TAPE)[:, 2]
    assert np.isnan(said[-1])
    assert not np.isinf(said).any()


def test_a_classifier_is_for_directions():
    with pytest.raises(UsageError, match="direction"):
        create(river("wrong", LOGISTIC.estimator, "volatility"))
