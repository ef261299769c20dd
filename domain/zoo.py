"""River estimators by name: ``preprocessing.StandardScaler() | linear_model.LinearRegression(l2=0.1)``.

The text is parsed, never evaluated: calls of River's public classes, constants and the pipe that joins two steps.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np

from domain.errors import UsageError
from domain.features import FEATURES
from domain.spelling import meant


def build(text: str) -> Any:  # noqa: ANN401 - River's estimators share no public type
    """Return the estimator that ``text`` describes.

    >>> build("preprocessing.StandardScaler() | linear_model.LinearRegression()").__class__.__name__
    'Pipeline'

    Raises
    ------
    UsageError
        When the text is not such an expression, names something that River does not have, describes no supervised
        estimator, or one that cannot learn and answer a row, or leaves a seed open.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _try(_node(tree))
        return _node(tree)
    except Exception as error:  # the constructors and first steps of a whole library: any error is the text's
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"estimator {text[:200]!r}: {said[:300]}; write River classes, such as linear_model.PARegressor()"
        ) from error


def _try(estimator: Any) -> None:  # noqa: ANN401
    """Learn and answer one row, so that wrong arguments show here and not in the middle of a stream."""
    if not hasattr(estimator, "learn_one") or not hasattr(estimator, "predict_one"):
        raise TypeError(f"{type(estimator).__name__} is not an estimator that learns and predicts")
    row = dict.fromkeys(FEATURES, 0.5)
    classified = classifies(estimator)
    estimator.learn_one(row, True if classified else 1.0)
    answer = estimator.predict_proba_one(row).get(True, 0.5) if classified else estimator.predict_one(row)
    float(answer)


def _node(node: ast.expr) -> Any:  # noqa: ANN401
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _node(node.left) | _node(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        keywords = {keyword.arg or "**": _node(keyword.value) for keyword in node.keywords}
        made = _class(node.func)(*[_node(arg) for arg in node.args], **keywords)
        if "seed" in inspect.signature(type(made)).parameters and getattr(made, "seed", 0) is None:
            raise ValueError(f"{type(made).__name__} needs seed=...: without one no replay repeats it")
        return made
    if isinstance(node, ast.List | ast.Tuple):
        return [_node(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{ast.unparse(node)[:100]!r} is neither a call of a class nor a constant") from error


def _class(node: ast.Attribute) -> type:
    path = ast.unparse(node)
    module, _, name = path.rpartition(".")
    try:
        inside = importlib.import_module(f"river.{module}")
    except ModuleNotFoundError as error:
        modules = [found.name for found in pkgutil.iter_modules(importlib.import_module("river").__path__)]
        raise ValueError(f"river.{module} is not a module of River{meant(module, modules)}") from error
    found = getattr(inside, name, None)
    if not isinstance(found, type) or not found.__module__.startswith("river.") or "datasets" in path:
        classes = [known for known, value in vars(inside).items() if isinstance(value, type)]
        raise ValueError(f"river.{path} is not a class of River{meant(name, classes)}")
    if found.__module__.startswith("river.rules."):
        raise ValueError(f"{name} files its rules under memory addresses: no replay repeats its state")
    return found


def classifies(estimator: object) -> bool:
    """Return whether the estimator (or the last step of its pipeline) predicts classes."""
    from river import base, compose

    while isinstance(estimator, compose.Pipeline):
        estimator = list(estimator.steps.values())[-1]
    return isinstance(estimator, base.Classifier)


def digest(estimator: object) -> str:
    """Return a sha256 of the estimator's state, equal for equal states however they came about.

    Pickles of equal estimators differ byte by byte; this walks what they would hold, with keys in order.
    """
    sha = hashlib.sha256()
    _walk(estimator, sha.update, {})
    return sha.hexdigest()


def _walk(value: object, emit: Callable[[bytes], None], seen: dict[int, tuple[int, object]]) -> None:
    if value is None or isinstance(value, str | bytes | bool | int):
        emit(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, float):
        emit(f"f:{value.hex()};".encode())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        emit(f"a:{value.dtype}{value.shape};".encode() + value.tobytes())
    elif isinstance(value, type) or (
        callable(value) and hasattr(value, "__qualname__") and not hasattr(value, "__self__")
    ):
        emit(f"n:{value.__module__}.{value.__qualname__};".encode())
    elif id(value) in seen:
        emit(f"r:{seen[id(value)][0]};".encode())
    else:
        seen[id(value)] = (len(seen), value)  # the reference keeps the id from being used again
        _walk_parts(value, emit, seen)


def _walk_parts(value: object, emit: Callable[[bytes], None], seen: dict[int, tuple[int, object]]) -> None:
    emit(f"o:{type(value).__qualname__}(".encode())
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            _walk(key, emit, seen)
            _walk(value[key], emit, seen)
    elif isinstance(value, set | frozenset):
        for item in sorted(value, key=repr):
            _walk(item, emit, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            _walk(item, emit, seen)
    else:
        reduced = value.__reduce_ex__(4)
        for part in reduced if isinstance(reduced, tuple) else (reduced,):
            if isinstance(part, dict) and getattr(value, "seed", 0) is None:
                # River's distributions hold a generator that nobody seeded, for drawing samples: it differs each time,
                # and nothing that is learned or predicted depends on it.
                part = {key: item for key, item in part.items() if key != "_rng"}  # noqa: PLW2901
            _walk(list(part) if hasattr(part, "__next__") else part, emit, seen)
    emit(b");")
