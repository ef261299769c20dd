"""Objects of a pickle come to life: made empty without running a constructor, then filled with a checked state."""

from __future__ import annotations

import functools
import statistics
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import MT19937, RandomState

from domain.allowlist import NATIVE, Dtype, find, fits, is_river, refuse

_LARGEST = 1 << 20
"""Above any window River is built with: its native classes allocate what such an argument says."""

_DTYPE_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<|"]
_WORDS = 624
_GENERATOR_VERSION = 3


def make(kind: object, arguments: object) -> Any:  # noqa: ANN401 - any of River's classes
    """Return an empty object of a class.

    Raises
    ------
    ArtifactRefused
        When the class is not one of River's, or is given what no honest pickle gives.
    """
    if not isinstance(kind, type) or type(arguments) is not tuple:
        raise refuse("makes something of what is no class")
    takes = _takes(kind)
    if takes is not None:
        fits_in = len(arguments) == takes
    else:
        fits_in = all(type(n) in {int, float, bool} and abs(n) <= _LARGEST for n in arguments)
    if not fits_in:
        raise refuse(f"gives {kind.__qualname__} arguments that it cannot have")
    return kind.__new__(kind, *arguments)


@functools.cache
def _takes(kind: type) -> int | None:
    """Return how many arguments the class is made with: fields of a named tuple; None when numbers will do."""
    if kind is statistics.NormalDist:
        return 0
    if not is_river(kind) or issubclass(kind, type):
        raise refuse(f"makes {kind.__module__}.{kind.__qualname__}, which is no class of River")
    if kind.__module__.startswith(NATIVE):
        return None
    return len(getattr(kind, "_fields", ())) if issubclass(kind, tuple) else 0


def fill(thing: Any, state: Any) -> None:  # noqa: ANN401
    """Give an object its state.

    Raises
    ------
    ArtifactRefused
        When it is no object that has one (a class, say: its methods would be replaced), or the state is not whole.
    """
    kind: type = type(thing)
    _filler(kind)(thing, state)


@functools.cache
def _filler(kind: type) -> Callable[[Any, Any], None]:
    if kind in _FILLS:
        return _FILLS[kind]
    if kind is find("random", "Random"):
        return _fill_random
    if not is_river(kind) or issubclass(kind, type):  # a class of River is of a class of classes, perhaps River's
        raise refuse(f"fills a {kind.__qualname__}, which has no state of its own")
    if kind.__module__.startswith(NATIVE):
        return _fill_native
    return _fill_by_method if hasattr(kind, "__setstate__") else _fill_attributes


def _fill_native(thing: Any, state: Any) -> None:  # noqa: ANN401
    if type(state) is not bytes:
        raise refuse(f"fills {type(thing).__qualname__} with something else than its bytes")
    thing.__setstate__(state)


def _fill_by_method(thing: Any, state: Any) -> None:  # noqa: ANN401
    thing.__setstate__(_attributes(thing, state))


def _fill_attributes(thing: Any, state: Any) -> None:  # noqa: ANN401
    slots = None
    if type(state) is tuple and len(state) == 2:  # noqa: PLR2004 - attributes and slots
        state, slots = state
    if state is not None:
        thing.__dict__.update(_attributes(thing, state))
    if slots is not None:
        for name, value in _attributes(thing, slots).items():
            slot = getattr(type(thing), name, None)
            if not isinstance(slot, types.MemberDescriptorType):
                raise refuse(f"fills {type(thing).__qualname__}.{name}, which is no slot")
            slot.__set__(thing, value)


def _attributes(thing: object, state: Any) -> dict[str, Any]:  # noqa: ANN401
    if type(state) is not dict or not all(map(_attribute, state)):
        raise refuse(f"fills {type(thing).__qualname__} with something else than named attributes")
    return {sys.intern(name): value for name, value in state.items()}


def _attribute(name: object) -> bool:
    return type(name) is str and not name.startswith("__")


def _fill_dtype(_thing: Dtype, state: Any) -> None:  # noqa: ANN401
    if [type(part) for part in state] != [type(part) for part in _DTYPE_STATES[0]] or state not in _DTYPE_STATES:
        raise refuse("has a strange dtype")


def _fill_partial(thing: Any, state: Any) -> None:  # noqa: ANN401
    function, arguments, keywords, attributes = state
    if function is not thing.func or type(arguments) is not tuple or type(keywords) is not dict or attributes:
        raise refuse("makes a partial into another")
    thing.__setstate__((function, arguments, keywords, None))


def _fill_random(thing: Any, state: Any) -> None:  # noqa: ANN401
    version, words, gauss = state
    if version != _GENERATOR_VERSION or type(words) is not tuple or not all(type(word) is int for word in words):
        raise refuse("has a strange generator")
    if not (gauss is None or type(gauss) is float):
        raise refuse("has a strange generator")
    thing.setstate((_GENERATOR_VERSION, words, gauss))


def _fill_normal(thing: Any, state: Any) -> None:  # noqa: ANN401
    mu, sigma = state
    if type(mu) is not float or type(sigma) is not float:
        raise refuse("has a strange distribution")
    thing.__setstate__((mu, sigma))


def _fill_array(thing: Any, state: Any) -> None:  # noqa: ANN401
    version, shape, kind, fortran, data = state
    if version != 1 or type(fortran) is not bool or type(data) is not bytes:
        raise refuse("has a strange array")
    thing.__setstate__((1, shape, fits(shape, kind, data), fortran, data))


def _mersenne(state: Any) -> Any:  # noqa: ANN401
    """Check the state of a Mersenne twister, whose own code takes any position and would read behind its words."""
    words, position = state["state"]["key"], state["state"]["pos"]
    if type(words) is not np.ndarray or words.dtype != np.uint32 or words.shape != (_WORDS,):
        raise refuse("has a strange generator")
    if type(position) is not int or not 0 <= position <= _WORDS or state["bit_generator"] != "MT19937":
        raise refuse("has a strange generator")
    return {"bit_generator": "MT19937", "state": {"key": words, "pos": position}}


def _fill_bits(thing: Any, state: Any) -> None:  # noqa: ANN401
    words, seed = state
    if seed is not None:
        raise refuse("has a generator without a seed")
    thing.__setstate__((_mersenne(words), None))


def _fill_random_state(thing: Any, state: Any) -> None:  # noqa: ANN401
    if type(state["has_gauss"]) is not int or type(state["gauss"]) is not float:
        raise refuse("has a strange generator")
    thing.set_state({**_mersenne(state), "has_gauss": state["has_gauss"], "gauss": state["gauss"]})


_FILLS: dict[type, Callable[[Any, Any], None]] = {
    Dtype: _fill_dtype,
    MT19937: _fill_bits,
    RandomState: _fill_random_state,
    functools.partial: _fill_partial,
    np.ndarray: _fill_array,
    statistics.NormalDist: _fill_normal,
}
