"""The strict unpickler for River estimators: an allow-list of exact names, and plain functions of River itself.

A prefix rule (``river.*``) would be an open door: modules of River expose ``os`` and ``shutil`` as attributes. So a
dotted name is walked part by part, and a module, a foreign class or a private name on the way is refused.
"""

from __future__ import annotations

import importlib
import io
import pickle
import types
from typing import Any

from domain.errors import ArtifactRefused

_EXACT = {
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "builtins": {"dict", "float", "int", "list", "set", "frozenset", "tuple", "str", "bool", "complex"},
    "functools": {"partial"},
    "random": {"Random"},
    "statistics": {"NormalDist"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._pickle": {"__bit_generator_ctor", "__randomstate_ctor"},
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
_NATIVE = "river._river_rust"


def _method(obj: Any, name: Any) -> Any:  # noqa: ANN401 - whatever River's own pickles ask for
    """Stand in for ``getattr``, which River's bound methods need: only plain public methods of River objects."""
    kind = type(obj)
    if not isinstance(name, str) or name.startswith("__") or not kind.__module__.startswith("river."):
        raise ArtifactRefused(f"pickle asks for attribute {name!r} of {kind.__module__}.{kind.__qualname__}: refused")
    attribute = getattr(kind, name, None)
    if not isinstance(attribute, types.FunctionType) or not _own(attribute.__module__) or not _own(kind.__module__):
        raise ArtifactRefused(f"pickle asks for {kind.__qualname__}.{name}, which is no method of River: refused")
    return getattr(obj, name)


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
    home = getattr(found, "__module__", "") or ""
    if home.startswith(_NATIVE) or module.startswith(_NATIVE):
        return found
    if isinstance(found, type) and home != module:
        raise ArtifactRefused(f"pickle names {module}.{name}: a class of {home}, refused")
    if not _own(home) or not callable(found):
        raise ArtifactRefused(f"pickle names {module}.{name}: not River's own, refused")
    return found


class _Strict(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) == ("builtins", "getattr"):
            return _method
        if name in _EXACT.get(module, ()):
            return getattr(importlib.import_module(module), name)
        if module.startswith("river."):
            return _river(module, name)
        raise ArtifactRefused(f"pickle names {module}.{name}: not on the allow-list, refused")


def load(data: bytes) -> Any:  # noqa: ANN401
    """Return the object in ``data``.

    Raises
    ------
    ArtifactRefused
        When the pickle names anything that an honest River estimator does not need, or is damaged.
    """
    try:
        return _Strict(io.BytesIO(data)).load()
    except ArtifactRefused:
        raise
    except Exception as error:
        raise ArtifactRefused(f"pickle is damaged ({type(error).__name__}: {error}); use another version") from error


def dump(obj: object) -> bytes:
    """Return the object as a pickle that ``load`` accepts."""
    return pickle.dumps(obj, protocol=5)
