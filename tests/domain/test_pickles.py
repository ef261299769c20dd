"""The strict loader: what an honest River pickle needs gets in, and nothing else does.

That honest estimators go on unchanged is proved here for all that River has, in ``test_zoo`` for what a text builds.
"""

import contextlib
import inspect
import pickle
import random
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import pickles, zoo
from domain.errors import ArtifactRefused
from tests.domain.assembler import SCALER, bound, called, named, text, whole
from tests.domain.guarded import judge, river_modules
from tests.domain.hostile import corpus

HONEST = {
    name: pickles.dump(zoo.build(estimator))
    for name, estimator in {
        "linear": "preprocessing.StandardScaler() | linear_model.LinearRegression()",
        "bayes": "preprocessing.RobustScaler() | linear_model.BayesianLinearRegression()",
        "bandit": "model_selection.BanditRegressor([linear_model.PARegressor(), tree.HoeffdingTreeRegressor()],"
        " metrics.MAE(), bandit.EpsilonGreedy(epsilon=0.3, seed=1))",
        "drift": "drift.DriftRetrainingClassifier(naive_bayes.GaussianNB(), drift.binary.DDM())",
        "neighbours": "neighbors.KNNRegressor(n_neighbors=3)",
    }.items()
}
MUTATIONS = 20_000
GROWTH_MIB = 64
REACHED = {
    "os": "system",
    "shutil": "rmtree",
    "subprocess": "Popen",
    "functools": "reduce",
    "importlib": "import_module",
}
REACHED |= {"builtins": "eval", "inspect": "os.system", "io": "open", "sys": "modules", "copy": "copy", "re": "compile"}
REACHED |= {"numpy": "load", "random": "SystemRandom", "urllib": "request.urlopen", "collections": "namedtuple"}
REFUSED = {"river.multiclass.occ.OutputCodeClassifier[0]"}
"""It keeps an iterator, and with it whatever that would go over."""


def unharmed(verdicts):
    for verdict in verdicts:
        assert not verdict["outcome"].startswith("escaped"), verdict
        assert not verdict["seen"], verdict
        assert verdict["mib"] < GROWTH_MIB, verdict
    return verdicts


@pytest.mark.process
def test_every_hostile_pickle_is_refused_and_runs_opens_and_grows_nothing(tmp_path):
    payloads = corpus(str(tmp_path / "trace"))
    assert len({payload.name for payload in payloads}) == len(payloads) > 250
    for payload, verdict in zip(payloads, unharmed(judge([p.data for p in payloads])), strict=True):
        assert verdict["outcome"] == "refused", (payload.name, verdict)
        assert verdict["why"].startswith("pickle ")
    assert not (tmp_path / "trace").exists()


@pytest.mark.process
def test_the_library_s_own_unpickler_would_have_run_the_live_ones(tmp_path):
    trace = tmp_path / "trace"
    live = [payload for payload in corpus(str(trace)) if payload.live]
    script = (
        "import contextlib, os, pathlib, pickle, shutil, sys\n"
        "trace = pathlib.Path(sys.argv[1])\n"
        "for name, data in pickle.load(sys.stdin.buffer):\n"
        "    with contextlib.suppress(BaseException), contextlib.redirect_stdout(sys.stderr):\n"
        "        made = pickle.loads(data)\n"
        "        getattr(made, 'read', int)()\n"  # waits for a shell that runs beside us
        "    if not trace.exists(): print(name)\n"
        "    shutil.rmtree(trace) if trace.is_dir() else trace.unlink(missing_ok=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, trace],
        input=pickle.dumps([(payload.name, payload.data) for payload in live]),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.decode().splitlines() == []
    assert len(live) > 80


def test_no_attribute_of_a_river_module_leads_out_of_river():
    led = set()
    for module in river_modules():
        for name, found in vars(module).items():
            if isinstance(found, types.ModuleType):
                led.add((module.__name__, name))
                led.add((module.__name__, f"{name}.{REACHED.get(found.__name__, '__name__')}"))
            elif getattr(found, "__module__", None) != module.__name__ and callable(found):
                led.add((module.__name__, name))
    reached = {f"{name.split('.')[0]}" for _module, name in led}
    assert {"os", "shutil", "functools", "inspect"} < reached
    assert len(led) > 1000
    for module, name in sorted(led):
        for code in (named(module, name), called(named(module, name), text("true"))):
            with pytest.raises(ArtifactRefused, match="pickle"):
                pickles.load(whole(code))


def test_a_public_method_of_an_estimator_may_be_bound_as_river_s_own_pickles_do():
    bound_one = pickles.load(whole(bound(SCALER + b")\x81", "learn_one")))
    assert bound_one.__func__.__qualname__ == "StandardScaler.learn_one"


def test_a_refusal_names_what_was_asked_for():
    with pytest.raises(ArtifactRefused, match=r"os\.system"):
        pickles.load(whole(named("os", "system")))


def test_a_pickle_beyond_the_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_BYTES", 100)
    with pytest.raises(ArtifactRefused, match="more than 100"):
        pickles.load(HONEST["linear"])


def mutated(rng):
    data = bytearray(HONEST[rng.choices(list(HONEST), [8, 8, 1, 8, 1])[0]])  # rarely the large ones
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randint(1, 20)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            case 4:
                other = rng.choice(list(HONEST.values()))
                start = rng.randrange(len(other))
                data[at : at + rng.randint(0, 30)] = other[start : start + rng.randint(1, 60)]
            case _:
                del data[at + 1 :]
    return bytes(data)


@pytest.mark.process
def test_mutated_pickles_are_refused_or_are_still_harmless():
    rng = random.Random(20)
    verdicts = unharmed(judge([mutated(rng) for _ in range(MUTATIONS)]))
    refused = sum(verdict["outcome"] == "refused" for verdict in verdicts)
    assert MUTATIONS // 2 < refused < MUTATIONS


FRAGMENTS = [bytes([code]) for code in range(256)]
FRAGMENTS += [
    named("river.preprocessing.scale", "StandardScaler"),
    named("functools", "partial"),
    named("numpy", "dtype"),
]
FRAGMENTS += [named("collections", name) for name in ("deque", "defaultdict", "Counter", "OrderedDict")]
FRAGMENTS += [
    named("builtins", "getattr"),
    named("river._river_rust.stats", "RsQuantile"),
    text("f8"),
    text("learn_one"),
]
FRAGMENTS += [
    b")\x81",
    b")R",
    b"}b",
    b"\x85R",
    b"\x86R",
    b"(",
    b"t",
    b"K\x01",
    b"\x94",
    b"h\x00",
    b"C\x04abcd",
    b"]",
] * 8


@pytest.mark.slow
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40))
@settings(max_examples=2000, deadline=None)
def test_any_program_of_opcodes_is_refused_or_gives_a_value(program):
    with contextlib.suppress(ArtifactRefused):
        pickles.load(whole(b"".join(program)))


def supervised():
    """Yield every regressor and classifier of River, with the parameters of its own unit tests, and its name."""
    from river import base

    kinds = {
        kind
        for module in river_modules()
        for kind in (getattr(module, name, None) for name in getattr(module, "__all__", ()))
        if inspect.isclass(kind)
        and issubclass(kind, base.Regressor | base.Classifier)
        and not inspect.isabstract(kind)
        and not issubclass(kind, base.MultiTargetRegressor | base.MultiLabelClassifier)
    }
    for kind in sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        name = f"{kind.__module__}.{kind.__qualname__}"
        for number, parameters in enumerate(kind._unit_test_params()):
            with contextlib.suppress(TypeError, RuntimeError):  # some need parameters, or a newer Python
                yield f"{name}[{number}]", kind(**parameters)


def lived(estimator, rows, labels):
    said = []
    for row, label in zip(rows, labels, strict=True):
        try:
            said.append(repr(estimator.predict_one(row)))
            estimator.learn_one(row, label)
        except ValueError as error:  # some are for counts only, and say so
            said.append(repr(error))
    return said


@pytest.mark.slow
def test_every_supervised_estimator_of_river_goes_on_as_if_it_had_not_been_saved():
    from river import base

    table = np.random.default_rng(3).normal(size=(80, 5))
    rows = [dict(zip("abcde", row, strict=True)) for row in table.tolist()]
    numbers = [row["a"] + 0.3 * row["b"] for row in rows]
    gone_on = 0
    for name, estimator in supervised():
        labels = [y > 0 for y in numbers] if isinstance(estimator, base.Classifier) else numbers
        lived(estimator, rows[:60], labels[:60])
        saved = pickles.dump(estimator)
        if name in REFUSED:
            with pytest.raises(ArtifactRefused):
                pickles.load(saved)
            continue
        again, copied = pickles.load(saved), pickles.copy(estimator)
        assert zoo.digest(again) == zoo.digest(copied), name
        assert lived(again, rows[60:], labels[60:]) == lived(copied, rows[60:], labels[60:]), name
        gone_on += 1
    assert gone_on > 70
