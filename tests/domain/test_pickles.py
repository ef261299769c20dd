"""The strict loader: what an honest River pickle needs gets in, and nothing else does.

That honest estimators go on unchanged is proved in ``test_zoo`` and ``test_learners``.
"""

import pickle

import pytest

from domain import pickles, zoo
from domain.errors import ArtifactRefused

HONEST = pickles.dump(zoo.build("preprocessing.StandardScaler() | linear_model.LinearRegression()"))


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def named(module, name):
    """The opcodes that push ``module.name``, dotted names and all."""
    return text(module) + text(name) + b"\x93"


def called(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(code):
    return b"\x80\x04" + code + b"."


CALL_OF_THE_SHELL = text("echo pwned > /tmp/never")
FOREIGN = [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "compile"),
    ("builtins", "open"),
    ("builtins", "setattr"),
    ("builtins", "type"),
    ("builtins", "object"),
    ("builtins", "dict.__class__"),
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("shutil", "rmtree"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("copyreg", "_reconstructor"),
    ("operator", "attrgetter"),
    ("functools", "reduce"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy.testing._private.utils", "runstring"),
    ("random", "SystemRandom"),
    ("domain.pickles", "load"),
    ("sys", "modules"),
    ("riverbed", "anything"),
]
THROUGH_RIVER = [
    ("river.datasets.base", "os.system"),
    ("river.datasets.base", "shutil.rmtree"),
    ("river.datasets.base", "RemoteDataset"),
    ("river.datasets", "Phishing"),
    ("river.bandit.datasets.news", "NewsArticles"),
    ("river.bandit.datasets", "datasets.base.os.system"),
    ("river.stream", "iter_csv"),
    ("river.stream.iter_csv", "open_filepath"),
    ("river.base.base", "inspect.os.system"),
    ("river.base.base", "inspect"),
    ("river.base.base", "copy.deepcopy"),
    ("river.base.base", "functools.reduce"),
    ("river.base.viz", "os"),
    ("river.compose.pipeline", "functools.partial"),
    ("river.compose.pipeline", "itertools.count"),
    ("river.compose.pipeline", "inspect.importlib.import_module"),
    ("river.linear_model.lin_reg", "LinearRegression.__init__.__globals__"),
    ("river.linear_model.lin_reg", "LinearRegression.__class__"),
    ("river.linear_model.lin_reg", "LinearRegression.__reduce__"),
    ("river.linear_model", "lin_reg"),
    ("river.linear_model", "lin_reg.LinearRegression"),
    ("river.linear_model.lin_reg", "nothing_of_the_kind"),
    ("river.no_such_module", "Thing"),
    ("river.linear_model.glm", "np.load"),
    ("river.checks", "utils"),
    ("river.evaluate", "progressive_val_score"),
]


@pytest.mark.parametrize(("module", "name"), FOREIGN + THROUGH_RIVER, ids=lambda part: part)
def test_a_name_that_no_estimator_needs_is_refused(module, name):
    for code in (named(module, name), called(named(module, name), CALL_OF_THE_SHELL)):
        with pytest.raises(ArtifactRefused):
            pickles.load(whole(code))
    with pytest.raises(ArtifactRefused):  # the old way to write it, by line
        pickles.load(f"c{module}\n{name}\n(tR.".encode())


def bound(thing, name):
    return called(named("builtins", "getattr"), thing, text(name))


SCALER = named("river.preprocessing.scale", "StandardScaler") + b")\x81"


@pytest.mark.parametrize(
    "code",
    [
        bound(named("river.preprocessing.scale", "StandardScaler"), "__subclasses__"),
        bound(SCALER, "__class__"),
        bound(SCALER, "__reduce_ex__"),
        bound(SCALER, "__dict__"),
        bound(SCALER, "no_such_method"),
        bound(bound(SCALER, "learn_one"), "__func__"),
        bound(bound(SCALER, "learn_one"), "__globals__"),
        bound(text("a string"), "format"),
        bound(named("functools", "partial"), "func"),
        bound(named("builtins", "getattr"), "__globals__"),
        called(named("builtins", "getattr"), SCALER, b"K\x05"),
    ],
)
def test_a_chain_of_attributes_leads_nowhere(code):
    with pytest.raises(ArtifactRefused):
        pickles.load(whole(code))


def test_a_public_method_of_an_estimator_may_be_bound_as_river_s_own_pickles_do():
    assert pickles.load(whole(bound(SCALER, "learn_one"))).__func__.__qualname__ == "StandardScaler.learn_one"


class Bomb:
    def __init__(self, function, *arguments):
        self.code = function, arguments

    def __reduce__(self):
        return self.code


@pytest.mark.parametrize("function", [eval, exec, __import__, compile, print, getattr])
def test_a_bomb_inside_an_honest_estimator_is_refused(function, tmp_path):
    trace = tmp_path / "trace"
    estimator = pickles.load(HONEST)
    estimator["LinearRegression"]._weights = Bomb(function, f"open({str(trace)!r}, 'w')")
    with pytest.raises(ArtifactRefused):
        pickles.load(pickle.dumps(estimator))
    assert not trace.exists()


def test_damaged_bytes_are_refused_or_are_still_a_harmless_value():
    for data in (b"", b"no pickle", HONEST[:-1], HONEST[: len(HONEST) // 2], b"\x80\x04."):
        with pytest.raises(ArtifactRefused):
            pickles.load(data)
    refused = 0
    for i in range(len(HONEST)):
        broken = bytearray(HONEST)
        broken[i] ^= 0xFF
        try:
            pickles.load(bytes(broken))
        except ArtifactRefused:
            refused += 1
    assert refused > len(HONEST) // 4


def test_a_claim_of_more_memory_than_there_is_is_refused():
    shape = b"(" + b"\x8a\x06" + (2**46).to_bytes(6, "little") + b"t"
    huge = called(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "ndarray"), shape, b"C\x01b")
    with pytest.raises(ArtifactRefused):
        pickles.load(whole(huge))


def test_a_refusal_names_what_was_asked_for():
    with pytest.raises(ArtifactRefused, match=r"os\.system"):
        pickles.load(whole(named("os", "system")))
