"""What tests and doctests of every folder need: a home that is not the one of the person who runs them."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile


def pytest_configure() -> None:
    """Give the tests a home: importing Dagster's entry point settles a market, which must not be the user's."""
    os.environ["TIDEMILL_HOME"] = home = tempfile.mkdtemp(prefix="tidemill-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
