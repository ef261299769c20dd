"""Every error Tidemill raises on purpose.

::

    TidemillError
    ├── UsageError            a person's mistake: flag, path, configuration; one line, exit code 2
    ├── BadRecord             one record is unfit; it goes to the dead letters and the stream goes on
    └── BadState              going on would spread damage; the process stops
        ├── ArtifactRefused   a version failed its digest, schema or probes
        ├── LeaseLost         another trainer holds a newer epoch of this line
        └── Unavailable       a neighbour (broker, lake, control database) cannot be reached

A message names what, where and what to do, in one line.
"""

from __future__ import annotations


class TidemillError(Exception):
    """The root: catch this to catch everything Tidemill raises on purpose."""


class UsageError(TidemillError):
    """A person's mistake. The command prints the message as one line and exits with code 2."""


class BadRecord(TidemillError):  # noqa: N818 - it names the record, not the failure
    """One record is unfit for use.

    Parameters
    ----------
    reason
        A short, countable word (``schema``, ``late``, ``price``): the dead letter's reason.
    message
        What was wrong with which field.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class BadState(TidemillError):  # noqa: N818 - likewise
    """Going on would spread damage: stop before it does."""


class ArtifactRefused(BadState):
    """A model version failed its digest, its schema or its probes, and was not loaded."""


class LeaseLost(BadState):
    """Another trainer holds a newer lease epoch of this line; this one may no longer publish."""


class Unavailable(BadState):
    """A neighbour (broker, lake, control database) cannot be reached within its deadline."""
