"""The pulse: how the serving loop of a supervised process shows its shim that it goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestration.vitals import PULSE

BEAT_S = 1.0
"""How often a serving loop shows that it goes."""


def pulse() -> Callable[[], None]:
    """Return what a serving loop calls about once a second; it does nothing in a process that is not watched.

    A pulse that cannot be shown, as on a broken disk, is missed by the shim; it is not the loop's to fail for.
    """
    path = os.environ.get(PULSE)

    def show() -> None:
        if path:
            with suppress(OSError):
                Path(path).touch()

    return show
