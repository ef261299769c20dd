"""The market's clock: event time at a multiple of the wall clock, kept over restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from domain.errors import UsageError
from domain.events import NANOS_PER_SECOND

AHEAD_S = 1.0
"""Wall seconds that are noted in advance: what a kill loses at most."""


class _Noted(msgspec.Struct, forbid_unknown_fields=True):
    opens: int
    until: int


class MarketClock:
    """Event time, which never goes back, not even over a kill; while nobody runs it, it stands.

    Parameters
    ----------
    opens : int
        Where a new market begins, ns since epoch UTC.
    speed : float
        Event seconds per wall second; 0: it goes only where it is moved.
    path
        Where it is kept; None forgets it. A file of a market with another opening is begun anew.
    monotonic : () -> float
        The wall clock.

    Raises
    ------
    UsageError
        When the file holds no clock.

    Notes
    -----
    The file holds a time that is not yet reached, a second of wall time ahead, and ``now`` never passes what is noted.
    After a kill the market goes on at the noted time, at most that second later than anything it ever told.
    """

    def __init__(
        self, opens: int, speed: float, path: Path | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.speed = speed
        self._opens = opens
        self._path = path
        self._monotonic = monotonic
        self._event = self._noted = self._kept() or opens
        self._wall = monotonic()

    def now(self) -> int:
        """Return the market's time, ns since epoch UTC."""
        passed = self._monotonic() - self._wall
        now = self._event + int(passed * self.speed * NANOS_PER_SECOND)
        if now > self._noted:
            self._note(now + int(AHEAD_S * self.speed * NANOS_PER_SECOND))
        return now

    def seconds_until(self, ts: int) -> float:
        """Return how many wall seconds it is until then; infinity where the clock only goes where it is moved."""
        return max(0.0, (ts - self.now()) / NANOS_PER_SECOND / self.speed) if self.speed else float("inf")

    def advance(self, ts: int) -> None:
        """Let the market be at this time at once, where that is later than it is."""
        if ts > self.now():
            self._event, self._wall = ts, self._monotonic()
            if ts > self._noted:
                self._note(ts + int(AHEAD_S * self.speed * NANOS_PER_SECOND))

    def stop(self) -> None:
        """Note the very time, for a start that goes on exactly there."""
        self._note(self.now())

    def _note(self, until: int) -> None:
        self._noted = until
        if self._path is not None:
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(_Noted(self._opens, until)))
            fresh.replace(self._path)

    def _kept(self) -> int | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            noted = msgspec.json.decode(self._path.read_bytes(), type=_Noted)
        except msgspec.MsgspecError as error:
            raise UsageError(f"{self._path}: holds no clock of a market; delete it to begin at the opening") from error
        return noted.until if noted.opens == self._opens else None
