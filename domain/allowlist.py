"""What a pickle of a River estimator may name, call and fill: exact names, checked arguments, checked states.

A prefix rule (``river.*``) would be an open door: modules of River expose ``os`` and ``shutil`` as attributes. So a
dotted name is walked part by part, and a module, a foreign class or a private name on the way is refused.
"""

from __future__ import annotations

import collections
import functools
import importlib
import math
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import MT19937, RandomState

from domain.errors import ArtifactRefused

ATOMS = (str, int, float, bool, complex, bytes, types.NoneType)
"""What has no parts. Dictionaries are keyed by these or by flat tuples of them, so that no hash goes deep."""

_VALUES = {
    "builtins": ("dict", "float", "int", "list", "set", "frozenset", "tuple", "str", "bool", "complex"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "copy": ("deepcopy",),  # the multi-class wrappers make their members with it
    "functools": ("partial",),
    "numpy.random._mt19937": ("MT19937",),
    "numpy": ("ndarray",),
    "random": ("Random",),
    "statistics": ("NormalDist",),
}
_FORBIDDEN = (
    "river.datasets",  # fetches and unpacks files
    "river.bandit.datasets",  # likewise
    "river.bandit.envs",
    "river.stream",
    "river.evaluate",
    "river.checks",
    "river.compat",
    "river.utils.pretty",
    "river.base.viz",
)
NATIVE = "river._river_rust"
_MODULE = re.compile(r"river(\.[a-z_][a-z0-9_]*)+")
_DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"})
_DIMENSIONS = 8
_KEY_PARTS = 16
_INT_BITS = 64


class Call:
    """A name that only stands to be called."""

    def __init__(self, work: Callable[..., Any], cost: int) -> None:
        self.work = work
        self.cost = cost


class Dtype:
    """A dtype on its way into an array; numpy's own would take any state, and with it objects made of raw bytes."""

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or text not in _DTYPES:
            raise ArtifactRefused(f"pickle has an array of {describe(text)}: only numbers are allowed, refused")
        self.dtype = np.dtype(text)


def describe(value: object) -> str:
    """Return what to call a value in a refusal: of a hostile one, nothing may be run and nothing long be said."""
    if type(value) is str:
        return repr(value[:100])
    named = value if isinstance(value, type | types.FunctionType) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def refuse(what: str) -> ArtifactRefused:
    """Return the refusal of a pickle that asks for this."""
    return ArtifactRefused(f"pickle {what}: refused")


@functools.lru_cache(maxsize=4096)
def find(module: str, name: str) -> Any:  # noqa: ANN401 - classes, functions and calls
    """Return what a name stands for.

    Raises
    ------
    ArtifactRefused
        When honest estimators need no such name.
    """
    if (module, name) in _CALLS:
        return _CALLS[module, name]
    if name in _VALUES.get(module, ()):
        return getattr(importlib.import_module(module), name)
    if _MODULE.fullmatch(module):
        return _river(module, name)
    raise ArtifactRefused(f"pickle names {module}.{name}: not on the allow-list, refused")


def _own(home: str) -> bool:
    """Whether the module is River's and for models: datasets, for one, can fetch and unpack files."""
    return home.startswith("river.") and not home.startswith(_FORBIDDEN)


def _river(module: str, name: str) -> Any:  # noqa: ANN401
    if not _own(module):
        raise ArtifactRefused(f"pickle names {module}.{name}: that part of River is not for models, refused")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        if part.startswith("__"):
            raise ArtifactRefused(f"pickle names {module}.{name}: private, refused")
        found = getattr(found, part, None)
        if found is None or isinstance(found, types.ModuleType):
            raise ArtifactRefused(f"pickle names {module}.{name}: missing or a module, refused")
    if module.startswith(NATIVE) and isinstance(found, type | types.BuiltinFunctionType):
        return found
    if not isinstance(found, type | types.FunctionType) or found.__module__ != module or found.__qualname__ != name:
        raise ArtifactRefused(f"pickle names {module}.{name}: not defined there, refused")
    if isinstance(found, type) and issubclass(found, type):
        raise ArtifactRefused(f"pickle names {module}.{name}: a class of classes, refused")
    return found


@functools.cache
def is_river(kind: type) -> bool:
    """Whether the class is one of River's for models."""
    return _own(kind.__module__)


def key(value: object) -> bool:
    """Whether the value may be a key or a member of a set."""
    if type(value) is tuple:
        return len(value) <= _KEY_PARTS and all(type(part) is not tuple and key(part) for part in value)
    return type(value) in ATOMS and not (type(value) is int and value.bit_length() > _INT_BITS)


def _method(*arguments: object) -> Any:  # noqa: ANN401
    """Stand in for ``getattr``, which River's bound methods need: only plain public methods of River objects."""
    obj, name = arguments
    kind: type = type(obj)
    if not isinstance(name, str) or name.startswith("__") or not is_river(kind):
        raise refuse(f"asks for attribute {describe(name)} of {describe(kind)}")
    attribute = getattr(kind, name, None)
    if not isinstance(attribute, types.FunctionType) or not _own(attribute.__module__):
        raise ArtifactRefused(f"pickle asks for {kind.__qualname__}.{name}, which is no method of River: refused")
    return types.MethodType(attribute, obj)


def _counter(*arguments: object) -> object:
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        raise refuse("counts what is no dictionary")
    return collections.Counter(arguments[0])


def _ordered(*arguments: object) -> object:
    if arguments:
        raise refuse("gives an OrderedDict arguments")
    return collections.OrderedDict()


def _defaults(*arguments: object) -> object:
    if len(arguments) > 1 or not all(callable(factory) for factory in arguments):
        raise refuse("gives a defaultdict more than a factory")
    return collections.defaultdict(*arguments)


def _deque(*arguments: object) -> object:
    if not arguments:
        return collections.deque()
    nothing, longest = arguments
    if nothing != () or not (longest is None or type(longest) is int):
        raise refuse("gives a deque more than its length")
    return collections.deque(maxlen=longest)


def _partial(*arguments: object) -> object:
    if len(arguments) != 1 or isinstance(arguments[0], functools.partial | Call) or not callable(arguments[0]):
        raise refuse("makes a partial of what is no function")
    return functools.partial(arguments[0])


def _random(*arguments: object) -> object:
    if arguments:
        raise refuse("seeds a generator")
    return find("random", "Random")()


def _vectordict(*arguments: object) -> object:
    from river._river_rust.vectordict import VectorDict

    data, factory, mask, copied = arguments
    if type(data) is not dict or not (factory is None or callable(factory)) or type(copied) is not bool:
        raise refuse("makes a VectorDict of something else than numbers")
    if mask is not None and type(mask) not in {set, frozenset, dict, VectorDict}:
        raise refuse("masks a VectorDict by something else than names")
    return VectorDict(data, factory, mask, copied)


def _scalar(*arguments: object) -> object:
    kind, data = arguments
    if not isinstance(kind, Dtype) or type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise refuse("makes a number of the wrong bytes")
    return np.frombuffer(data, kind.dtype)[0]


def fits(shape: object, kind: object, data: object) -> np.dtype[Any]:
    """Check that the bytes are the array's, all of it, before anything is allocated."""
    if not isinstance(kind, Dtype) or type(data) not in {bytes, bytearray}:
        raise refuse("makes an array of something else than numbers")
    if type(shape) is not tuple or len(shape) > _DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise refuse("gives an array a strange shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):  # type: ignore[arg-type]
        raise refuse("gives an array a shape that its bytes do not fill")
    return kind.dtype


def _array(*arguments: object) -> object:
    data, kind, shape, order = arguments
    dtype = fits(shape, kind, data)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")  # type: ignore[call-overload]


def _blank_array(*arguments: object) -> object:
    if arguments[0] is not np.ndarray or arguments[1:] != ((0,), b"b"):
        raise refuse("reconstructs something else than an array")
    return np.empty(0, np.int8)


def _dtype(*arguments: object) -> object:
    if arguments[1:] != (False, True):
        raise refuse("makes a strange dtype")
    return Dtype(arguments[0])


def _bits(*arguments: object) -> object:
    if arguments != (MT19937,):
        raise refuse("makes a strange generator")
    return MT19937()


def _random_state(*arguments: object) -> object:
    if len(arguments) != 1 or type(arguments[0]) is not MT19937:
        raise refuse("makes a strange generator")
    return RandomState(arguments[0])


_CALLS = {
    ("builtins", "getattr"): Call(_method, 64),
    ("numpy", "dtype"): Call(_dtype, 64),
    ("numpy._core.multiarray", "_reconstruct"): Call(_blank_array, 128),
    ("numpy._core.multiarray", "scalar"): Call(_scalar, 32),
    ("numpy._core.numeric", "_frombuffer"): Call(_array, 256),
    ("numpy.random._pickle", "__bit_generator_ctor"): Call(_bits, 4096),
    ("numpy.random._pickle", "__randomstate_ctor"): Call(_random_state, 512),
}
_CLASS_CALLS = {
    ("collections", "Counter"): Call(_counter, 128),
    ("collections", "OrderedDict"): Call(_ordered, 256),
    ("collections", "defaultdict"): Call(_defaults, 128),
    ("collections", "deque"): Call(_deque, 768),
    ("functools", "partial"): Call(_partial, 128),
    ("random", "Random"): Call(_random, 2560),
    (f"{NATIVE}.vectordict", "VectorDict"): Call(_vectordict, 256),
}


def call(callee: object) -> Call:
    """Return the call behind what a pickle wants to call: few names may be, and no function of River."""
    if isinstance(callee, Call):
        return callee
    known = _CLASS_CALLS.get((callee.__module__, callee.__qualname__)) if isinstance(callee, type) else None
    if known is None or callee is not find(callee.__module__, callee.__qualname__):  # type: ignore[attr-defined]
        raise refuse(f"calls {describe(callee)}, which no estimator needs")
    return known
