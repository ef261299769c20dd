import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from domain import pickles, zoo
from domain.errors import UsageError
from domain.features import FEATURES

ESTIMATORS = {
    "linear": "preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.001), l2=0.1)",
    "huber": "preprocessing.RobustScaler() | linear_model.LinearRegression(optim.Adam(0.01), optim.losses.Huber())",
    "bayes": "preprocessing.StandardScaler() | linear_model.BayesianLinearRegression()",
    "passive": "preprocessing.AdaptiveStandardScaler() | linear_model.PARegressor(C=0.01)",
    "target": "preprocessing.TargetStandardScaler(linear_model.LinearRegression(intercept_lr=0.1))",
    "tree": "tree.HoeffdingAdaptiveTreeRegressor(grace_period=20, seed=1)",
    "forest": "forest.ARFRegressor(n_models=3, seed=1)",
    "mondrian": "forest.AMFRegressor(n_estimators=3, seed=1)",
    "bagging": "ensemble.BaggingRegressor(linear_model.PARegressor(), n_models=3, seed=1)",
    "neighbours": "neighbors.KNNRegressor(n_neighbors=3)",
    "bandit": "model_selection.BanditRegressor([linear_model.PARegressor(), tree.HoeffdingTreeRegressor()],"
    " metrics.MAE(), bandit.EpsilonGreedy(epsilon=0.3, seed=1))",
    "logistic": "preprocessing.StandardScaler() | linear_model.LogisticRegression()",
    "naive": "naive_bayes.GaussianNB()",
    "forest of classes": "forest.ARFClassifier(n_models=3, seed=1)",
    "drift": "drift.DriftRetrainingClassifier(naive_bayes.GaussianNB(), drift.binary.DDM())",
}
SLOW = {"tree", "forest", "mondrian"}
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ESTIMATORS]
)
CLASSIFIERS = {"logistic", "naive", "forest of classes", "drift"}


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return [dict(zip(FEATURES, row, strict=True)) for row in rng.normal(size=(n, len(FEATURES))).tolist()]


def label(row, classifies):
    y = row["lrv5"] + 0.3 * row["ret1"]
    return y > 0 if classifies else y


def taught(text, n=200):
    estimator = zoo.build(text)
    for row in rows(n):
        estimator.learn_one(row, label(row, zoo.classifies(estimator)))
    return estimator


def lived(estimator, n=60):
    """Ask and teach on; return all that was answered."""
    said, classifies = [], zoo.classifies(estimator)
    for row in rows(n, seed=1):
        said.append(estimator.predict_proba_one(row) if classifies else estimator.predict_one(row))
        estimator.learn_one(row, label(row, classifies))
    return said


def test_a_text_builds_what_python_would_build():
    from river import linear_model, optim, preprocessing

    by_hand = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.001), l2=0.1)
    assert repr(zoo.build(ESTIMATORS["linear"])) == repr(by_hand)
    assert zoo.digest(zoo.build(ESTIMATORS["linear"])) == zoo.digest(by_hand)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "linear_model.base.os.system('true')",
        "datasets.base.os.system('true')",
        "datasets.Phishing()",
        "compose.Pipeline.__init__",
        "compose.Pipeline.__init__()",
        "compose.Pipeline.__class__('x', (), {})",
        "linear_model.__init__()",
        "linear_model.NoSuchThing()",
        "no_such_module.Thing()",
        "linear_model.LinearRegression",
        "LinearRegression()",
        "lambda: 1",
        "(lambda: 1)()",
        "[x for x in ()]",
        "f'{1}'",
        "linear_model.LinearRegression(nonsense=1)",
        "linear_model.LinearRegression(**{'l2': 0.1})",
        "linear_model.LinearRegression(*[1])",
        "linear_model.LinearRegression(loss='squared')",
        "linear_model.LinearRegression(optimizer=5)",
        "preprocessing.StandardScaler() | 5",
        "preprocessing.StandardScaler()",
        "stats.Mean()",
        "optim.SGD()",
        "5",
        "'text'",
        "1 | 2",
        "[]",
        "",
        "linear_model.LinearRegression(",
        "linear_model.LinearRegression()\nimport os",
        "\x00",
        "(" * 5_000 + ")" * 5_000,
        "forest.ARFRegressor()",
        "preprocessing.StandardScaler() | tree.HoeffdingAdaptiveTreeRegressor()",
        "rules.AMRules()",
    ],
)
def test_a_text_that_is_no_estimator_is_one_clear_line(text):
    with pytest.raises(UsageError) as refused:
        zoo.build(text)
    said = str(refused.value)
    assert said.isprintable()
    assert said.startswith("estimator ")
    assert "write River classes" in said
    assert len(said) < 700


def test_randomness_without_a_seed_is_refused_because_no_replay_repeats_it():
    with pytest.raises(UsageError, match="seed"):
        zoo.build("forest.ARFRegressor(n_models=2)")


@each
def test_it_knows_a_classifier_from_a_regressor(name):
    assert zoo.classifies(zoo.build(ESTIMATORS[name])) is (name in CLASSIFIERS)


@each
def test_equal_states_have_equal_digests_however_they_came_about(name):
    first, second = taught(ESTIMATORS[name]), taught(ESTIMATORS[name], 100)
    second = pickles.load(pickles.dump(second))
    for row in rows(200)[100:]:
        second.learn_one(row, label(row, name in CLASSIFIERS))
    assert zoo.digest(second) == zoo.digest(first)


@each
def test_one_more_label_gives_another_digest(name):
    estimator = taught(ESTIMATORS[name])
    before = zoo.digest(estimator)
    assert zoo.digest(estimator) == before
    row = rows(1, seed=5)[0]
    estimator.learn_one(row, label(row, name in CLASSIFIERS))
    assert zoo.digest(estimator) != before


@each
def test_an_estimator_that_was_saved_goes_on_as_if_it_had_not_been(name):
    estimator = taught(ESTIMATORS[name])
    again = pickles.load(pickles.dump(estimator))
    assert lived(again) == lived(estimator)
    assert zoo.digest(again) == zoo.digest(estimator)


@pytest.mark.process
def test_digests_are_the_same_in_another_process():
    names = ["linear", "forest", "naive", "forest of classes", "bandit"]
    script = (
        "from domain import zoo; from tests.domain.test_zoo import ESTIMATORS, taught\n"
        f"print([zoo.digest(taught(ESTIMATORS[n])) for n in {names}])"
    )
    house = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=house, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str([zoo.digest(taught(ESTIMATORS[n])) for n in names])


def test_the_digest_sees_the_last_bit_of_a_number_the_content_of_an_array_and_who_is_shared():
    shared = [1.0]
    for a, b in [
        (0.1 + 0.2, 0.3),
        (0.0, -0.0),
        (1, True),
        (1, 1.0),
        ("1", b"1"),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (np.zeros(3), np.zeros(4)),
        (np.zeros(3), np.zeros(3, np.float32)),
        ([shared, shared], [[1.0], [1.0]]),
    ]:
        assert zoo.digest(a) != zoo.digest(b), (a, b)
    assert zoo.digest({"a": 1, "b": 2}) == zoo.digest({"b": 2, "a": 1})
    assert zoo.digest({"x", "y", "z"}) == zoo.digest({"z", "y", "x"})
    objects = np.array(["some text", None], object)
    assert zoo.digest(objects) == zoo.digest(pickles.copy(objects))
