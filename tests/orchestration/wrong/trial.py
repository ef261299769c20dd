"""One wrong call tried: what it said and did. Most run in this process, with a wire across everything that starts."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from orchestration import cli
from tests.orchestration.wrong.settings import BASE


class StartedError(BaseException):
    """Something was about to be started: the wrong call was accepted."""


def _start(*_arguments: object, **_options: object) -> None:
    raise StartedError


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes
    ----------
    code : exit code, None where it was accepted or ended in a traceback
    told : what stood on stderr, line by line
    shown : what stood on stdout
    trouble : ``accepted``, a traceback, or nothing
    made : files and directories that came to be
    """

    code: int | None
    told: list[str]
    shown: str
    trouble: str
    made: list[str]


def toml_of(*lines: str) -> str:
    """Return a good ``tidemill.toml`` with some lines replaced, or added where their key is new."""
    keys = {line.partition(" = ")[0].strip() for text in lines for line in text.splitlines()}
    kept = [
        f"{key} = {value}" for key, value in BASE.items() if not any(key == k or key.startswith(f"{k}.") for k in keys)
    ]
    return "\n".join((*lines, *kept)) + "\n"


class Trial:
    """Calls in a directory of their own, whose home is not there yet."""

    def __init__(self, at: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.at, self.home, self._capture = at, at / "home", capture
        self.config = at / "tidemill.toml"
        self.config.write_text(toml_of())

    def __call__(self, arguments: str | list[str], **variables: str) -> Outcome:
        """Call the command in this process."""
        argv = shlex.split(arguments) if isinstance(arguments, str) else arguments
        before = _files(self.at)
        self._capture.readouterr()
        code, trouble = None, ""
        with _surrounded(self.at, argv, self.environment(variables)), _wired():
            try:
                code = cli._exit_code()
            except StartedError:
                trouble = "accepted"
            except BaseException:  # noqa: BLE001 - that it was one is what is judged
                trouble = traceback.format_exc()
        shown, told = self._capture.readouterr()
        return Outcome(code, told.splitlines(), shown, trouble, sorted(_files(self.at) - before))

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a call: none of the tests' own settings, and those of the case."""
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("TIDEMILL_")}
        return kept | {"TIDEMILL_HOME": str(self.home), "TIDEMILL_CONFIG": str(self.config), **variables}


def _files(at: Path) -> set[str]:
    return {str(path.relative_to(at)) for path in at.rglob("*")}


@contextmanager
def _surrounded(at: Path, argv: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    back, arguments, limit = Path.cwd(), sys.argv, sys.getrecursionlimit()
    sys.argv = ["tidemill", *argv]
    os.chdir(at)
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            yield
    finally:
        os.chdir(back)
        sys.argv = arguments
        sys.setrecursionlimit(limit)
        gc.enable()


@contextmanager
def _wired() -> Iterator[None]:
    """Let nothing start: what is tried here is refused before, and where it is not, that shows."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "orchestration.supervisor.Supervisor.start", "orchestration.bootstrap.run_service",
            "orchestration.bootstrap.rehearse_service", "orchestration.replay.Replay.run",
            "orchestration.chaos.run", "markets.box.server.Box.run",
        ):  # fmt: skip
            patch.setattr(name, _start)
        yield
