"""Event time against wall clock: when a recorded or simulated event is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from domain.events import NANOS_PER_SECOND


@dataclass(frozen=True)
class Clock:
    """The two things a pace needs of time, as arguments, so that a test or a service can bring its own.

    Attributes
    ----------
    monotonic : () -> float
        Seconds since any fixed moment, never going back.
    wait : (seconds) -> object
        Returns after about that long, or sooner: a service passes its stop event's ``wait``.
    """

    monotonic: Callable[[], float] = time.monotonic
    wait: Callable[[float], object] = time.sleep


WALL = Clock()

_SOON = 1e-6
"""Seconds: what is nearer than this is due, for no clock waits so short and rounding must not ask it to."""


class Pace:
    """Lets event time run at a fixed multiple of the wall clock, anchored at the first event asked about.

    A reader that falls behind is not slowed further: what fell due meanwhile is due at once.

    Parameters
    ----------
    speed : float
        Event seconds per wall second, > 0; 0 means everything is due at once.
    clock
        Where wall time comes from.

    Examples
    --------
    >>> wall = [0.0]
    >>> pace = Pace(60, Clock(lambda: wall[0], lambda seconds: None))
    >>> pace.seconds_until(1_000), pace.seconds_until(60 * NANOS_PER_SECOND + 1_000)
    (0.0, 1.0)
    >>> wall[0] = 0.75
    >>> pace.seconds_until(60 * NANOS_PER_SECOND + 1_000)
    0.25
    """

    def __init__(self, speed: float, clock: Clock = WALL) -> None:
        self._speed = speed
        self._clock = clock
        self._anchor: tuple[int, float] | None = None

    def due_until(self, first: int) -> int | None:
        """Return the newest event time that is due by now, ns; None when everything is.

        Parameters
        ----------
        first : int
            Event time of the next event: the anchor, on the first call.
        """
        if self._speed == 0:
            return None
        event, wall = self._anchored(first)
        return event + int((self._clock.monotonic() - wall + _SOON) * self._speed * NANOS_PER_SECOND)

    def seconds_until(self, ts: int) -> float:
        """Return how long it is, in wall seconds, until an event at this time is due; 0 when it is."""
        if self._speed == 0:
            return 0.0
        event, wall = self._anchored(ts)
        due_at = wall + (ts - event) / NANOS_PER_SECOND / self._speed
        return max(0.0, due_at - self._clock.monotonic())

    def wait(self, seconds: float) -> None:
        """Wait on the clock; no time at all does not bother it."""
        if seconds > 0:
            self._clock.wait(seconds)

    def _anchored(self, first: int) -> tuple[int, float]:
        if self._anchor is None:
            self._anchor = first, self._clock.monotonic()
        return self._anchor
