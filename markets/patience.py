"""Asking again for what may pass: later each time, when told to, and not for ever."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from domain.errors import Unavailable

T = TypeVar("T")
Tell = Callable[[str], object]

PATIENCE_S = 120.0
"""How long a request is repeated: restarts and short overloads of an exchange pass within."""

FIRST_S, LONGEST_S = 0.5, 30.0
"""Seconds that the first and the latest back-off may last."""

SHORT_S = 1.0
"""Seconds that an attempt needs to find out more than that they were too few."""

TOLD_S = 5.0
"""Seconds of trouble that pass without a word."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 1_800.0
"""Least seconds between two lines about one and the same trouble, at first and when it lasts."""


@dataclass(frozen=True)
class Timing:
    """What waiting needs of the world, as arguments, so that a test or a service can bring its own.

    Attributes
    ----------
    monotonic : () -> float
        Seconds since any fixed moment, never going back.
    wall : () -> float
        Seconds since epoch.
    sleep : (seconds) -> awaitable
        Returns after about that long.
    random : () -> float
        A number in [0, 1).
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random.random


WALL = Timing()


class Passing(Exception):  # noqa: N818 - it says what kind of failure it is
    """Something failed that may succeed when it is done again.

    Parameters
    ----------
    why
        What is said should it not.
    wait_s
        Seconds after which it is to be done again; None where nobody said.
    """

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Patience:
    """Repeats what fails for now; full jitter, so that many who failed together do not come back together.

    Parameters
    ----------
    seconds
        How long in all.
    timing
        Clock and randomness.
    tell
        Is told why and how long it waits.

    Notes
    -----
    The k-th wait is uniform between 0 and ``min(LONGEST_S, FIRST_S * 2**k)``.

    References
    ----------
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, seconds: float, timing: Timing, tell: Tell) -> None:
        self._seconds = seconds
        self._timing = timing
        self._tell = tell

    async def until_done(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Return what an attempt returns that does not fail; it is given the seconds that are left.

        Raises
        ------
        Unavailable
            When an attempt raised ``Passing`` and patience would not last until the next.
        """
        began = self._timing.monotonic()
        longest, why = FIRST_S, ""
        while True:
            left = self._seconds - (self._timing.monotonic() - began)
            try:
                return await attempt(left)
            except Passing as passing:
                why = why if why and left < SHORT_S else str(passing)
                wait = self._timing.random() * longest if passing.wait_s is None else passing.wait_s
                longest = min(LONGEST_S, 2 * longest)
                lasts = self._timing.monotonic() - began + wait
                if lasts >= self._seconds:
                    raise Unavailable(why) from passing
                if wait >= 1 and lasts >= TOLD_S:
                    self._tell(f"{passing}; asking again in {wait:.0f} s")
            await self._timing.sleep(wait)


class Seldom:
    """Passes lines about trouble on: a new one at once, the same one, whatever its numbers, after ever longer pauses.

    Examples
    --------
    >>> now, told = [0.0], []
    >>> tell = Seldom(told.append, Timing(monotonic=lambda: now[0]))
    >>> for now[0] in range(0, 100, 2):
    ...     tell(f"banned for {now[0]} s")
    >>> told
    ['banned for 0 s', 'banned for 6 s', 'banned for 16 s', 'banned for 36 s', 'banned for 76 s']
    >>> tell("no internet")
    >>> told[-1]
    'no internet'
    """

    def __init__(self, tell: Tell, timing: Timing) -> None:
        self._tell = tell
        self._timing = timing
        self._same, self._again, self._pause = "", 0.0, FIRST_PAUSE_S

    def __call__(self, line: str) -> None:
        """Pass a line on, or drop it where nothing is new."""
        now, same = self._timing.monotonic(), re.sub(r"[\d.:-]+", "", line)
        if same != self._same or now > self._again + LONGEST_PAUSE_S:
            self._same, self._pause = same, FIRST_PAUSE_S
        elif now < self._again:
            return
        else:
            self._pause = min(LONGEST_PAUSE_S, 2 * self._pause)
        self._again = now + self._pause
        self._tell(line)


class Budget:
    """Weight that may be spent in a minute: a bucket that holds a quarter of it and fills with the rest in a minute.

    Whatever minute the other side counts, no more than the whole is spent in it.

    Parameters
    ----------
    weight_a_minute : > 0
    timing
        Clock.
    """

    def __init__(self, weight_a_minute: float, timing: Timing) -> None:
        self._whole = weight_a_minute
        self._most = weight_a_minute / 4
        self._rate = (weight_a_minute - self._most) / 60
        self._timing = timing
        self._held = self._most
        self._at = timing.monotonic()
        self._opens = -math.inf
        self._closed = ""
        self._turn = asyncio.Lock()

    async def take(self, weight: float) -> None:
        """Return when this much may be spent, in the order of asking; more than the bucket holds means all of it."""
        weight = min(weight, self._most)
        async with self._turn:
            while (missing := weight - self._filled()) > 0:
                await self._timing.sleep(max(missing / self._rate, 1e-3))
            self._held -= weight

    def spent(self, weight: float) -> None:
        """Follow what the other side says was spent in its minute, by whoever else shares this address."""
        self._held = min(self._filled(), self._whole - weight)

    def close(self, why: str, seconds: float) -> None:
        """Let nobody spend for a while, and nothing be left then: the other side said so."""
        self._opens, self._closed = self._timing.monotonic() + seconds, why
        self._held, self._at = 0.0, self._timing.monotonic()

    def demand_open(self) -> None:
        """Return unless it is closed.

        Raises
        ------
        Passing
            With what it was closed for, and for how long still.
        """
        wait = self._opens - self._timing.monotonic()
        if wait > 0:
            raise Passing(self._closed, wait)

    def _filled(self) -> float:
        now = self._timing.monotonic()
        self._held, self._at = min(self._most, self._held + (now - self._at) * self._rate), now
        return self._held
