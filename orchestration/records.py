"""The records in a service's home: what is asked for and how it goes, written whole and read with suspicion.

The standard library only: the shim reads and writes them, too, and runs whatever is broken elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

FINAL = frozenset({"stopped", "done", "failed", "crashed", "crash_loop"})  # phases without a shim


class Spec(TypedDict):
    """What to run; the child's environment is ``inherited`` overlaid with ``env`` and nothing else."""

    argv: list[str]
    env: dict[str, str]
    inherited: dict[str, str]
    cwd: str
    meta: dict[str, str]
    generation: int
    stop: bool
    policy: dict[str, float]


class State(TypedDict):
    """How it goes; ``started_at`` is in ns since epoch UTC, ``exit_code`` is negative for a signal."""

    phase: str
    generation: int
    shim: str
    child: str
    started_at: int | None
    restarts: int
    reason: str
    detail: str
    exit_code: int | None


class Damaged(ValueError):  # noqa: N818 - it names the record
    """A record is there and cannot be what was written: empty, cut off, or of something else."""


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Replace the file in one step, on the disk itself: a reader sees the old value or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_spec(home: Path) -> Spec | None:
    """Return what was last asked for, None when nothing ever was.

    Raises
    ------
    Damaged
        When ``spec.json`` is not what a controller writes.
    """
    return cast("Spec | None", _read(home / "spec.json", Spec))


def read_state(home: Path) -> State | None:
    """Return what the shim last recorded, None before the first shim.

    Raises
    ------
    Damaged
        When ``state.json`` is not what a shim writes.
    """
    return cast("State | None", _read(home / "state.json", State))


def _read(path: Path, kind: type) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:  # neither UTF-8 nor JSON
        raise Damaged(f"{path.name} is damaged") from error
    if not isinstance(value, dict) or not kind.__annotations__.keys() <= value.keys():
        raise Damaged(f"{path.name} is damaged")
    return value
