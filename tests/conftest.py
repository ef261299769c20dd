"""Recorded files of real markets, which lie beside the project and not in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SHELF = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shelf() -> Callable[[str], Path]:
    """Return a real file by name, or skip the test that needs it."""

    def find(name: str) -> Path:
        path = SHELF / name
        if not path.exists():
            pytest.skip(f"market data file {name} is not here")
        return path

    return find
