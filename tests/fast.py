"""What ``make fast`` refuses: a test without a marker that starts a process, opens a port or imports Dagster fails."""

from __future__ import annotations

import sys

import pytest

EVENTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "socket.bind", "socket.connect"}
MODULES = {"dagster", "playwright"}


def pytest_configure() -> None:
    """Begin to refuse: as a plugin only, since every run of all tests imports this module to look for doctests."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Fail the test, through whatever product code is between: pytest's outcome is not an ``Exception``."""
    if event in EVENTS or (event == "import" and str(arguments[0]).partition(".")[0] in MODULES):
        pytest.fail(f"{event} {arguments[0]}: a fast test does not; mark it (pyproject.toml, markers)")
