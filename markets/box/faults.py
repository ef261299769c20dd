"""What goes wrong at exchanges: injected by request, or by a seeded chance every so many seconds of wall time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from domain.errors import UsageError
from markets.box.reel import Row

KINDS = {
    "drop": 3,  # trades that the streams leave out
    "duplicate": 3,  # trades that are sent twice
    "reorder": 4,  # trades that are sent together, newest first
    "schema": 1,  # trades that are sent in another format
    "mixed": 8,  # Kraken: trades that are sent together as one frame, of whatever symbols
    "burst": 1_000,  # trades that happen at once: the market's clock leaps until they have
    "close": 1,  # all connections are closed with code 1012, "service restart"
    "shutdown": 1,  # the same, announced a second before
    "vanish": 1,  # all connections end without a closing handshake
    "stall": 1,  # all connections stay open, and nothing is said on them any more
    "429": 1,  # requests that are answered "too many requests"
    "418": 1,  # requests that are answered "banned"
    "503": 1,  # requests that are answered "unavailable"
    "checksum": 1,  # Binance: files of its archives in which a byte is not as their digest says
}
"""Each kind of fault, and how many of what it counts are spoilt at a time."""

RETRY_S = {"429": 1, "418": 2, "503": 1}
"""Seconds after which a refused request may come again, as ``Retry-After`` says. Real bans are minutes."""


class Disturbed(NamedTuple):
    """Trades as they are sent.

    Attributes
    ----------
    rows : in the order of sending
    spoilt : how many of the first are written in a schema that no exchange has
    mixed : whether symbols share frames where they usually do not
    """

    rows: list[Row]
    spoilt: int = 0
    mixed: bool = False


class Faults:
    """Which faults are about to happen, and how many did.

    Parameters
    ----------
    kinds : some of ``KINDS``
        What goes wrong by chance.
    every_s : float
        Mean wall seconds between two faults, exponentially distributed.
    seed : int
        The same seed is the same faults at the same times.

    Raises
    ------
    UsageError
        When a kind is unknown, or the mean is not positive.
    """

    def __init__(
        self,
        kinds: Sequence[str] = (),
        every_s: float = 10.0,
        seed: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for kind in kinds:
            _known(kind)
        if not every_s > 0:
            raise UsageError(f"faults every {every_s:g} s: give a number of seconds above 0")
        self.injected: Counter[str] = Counter()
        self._kinds, self._every_s, self._monotonic = tuple(kinds), every_s, monotonic
        self._random = random.Random(seed)
        self._next = monotonic() + self._random.expovariate(1 / every_s) if kinds else float("inf")
        self._armed: Counter[str] = Counter()
        self._held: list[Row] = []

    def inject(self, kind: str, n: int | None = None) -> None:
        """Let a fault happen as soon as there is something for it to happen to.

        Raises
        ------
        UsageError
            When the kind is unknown.
        """
        _known(kind)
        self.injected[kind] += 1
        self._armed[kind] += KINDS[kind] if n is None else n

    def draw(self) -> None:
        """Inject what chance has brought since the last call."""
        while self._next <= self._monotonic():
            self.inject(self._random.choice(self._kinds))
            self._next += self._random.expovariate(1 / self._every_s)

    def taken(self, kind: str, most: int | None = None) -> int:
        """Return how many of a kind are due, and count them as happened; at most so many."""
        n = self._armed[kind] if most is None else min(most, self._armed[kind])
        self._armed[kind] -= n
        return n

    def refusal(self) -> tuple[int, int] | None:
        """Return the status that the next request is refused with and after how many seconds it may come again."""
        return next(((int(kind), wait) for kind, wait in RETRY_S.items() if self.taken(kind, 1)), None)

    @property
    def pending(self) -> dict[str, int]:
        """Which were injected and have not happened yet, and to how much they will."""
        return {kind: n for kind, n in self._armed.items() if n}

    def disturbed(self, rows: list[Row]) -> Disturbed:
        """Return what is sent of these trades: some left out, some twice, some later and in the wrong order."""
        rows = rows[self.taken("drop", len(rows)) :]
        twice = self.taken("duplicate", len(rows))
        rows = [row for row in rows[:twice] for _ in range(2)] + rows[twice:]
        rows, self._held = self._held + rows, []
        if len(rows) < max(self._armed["reorder"], self._armed["mixed"]):
            self._held = rows
            return Disturbed([])
        turned = self.taken("reorder")
        rows = rows[:turned][::-1] + rows[turned:]
        return Disturbed(rows, self.taken("schema", len(rows)), bool(self.taken("mixed")))


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no fault; choose from {', '.join(KINDS)}")
