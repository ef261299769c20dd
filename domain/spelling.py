"""The name that was probably meant, when one is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of the known names, or nothing when none is near.

    >>> meant("hozirons", ["horizon", "interval"])
    ", did you mean 'horizon'?"
    >>> meant("colour", ["horizon", "interval"])
    ''
    """
    names = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), names, 1, 0.6)
    return f", did you mean '{names[near[0]]}'?" if near else ""
