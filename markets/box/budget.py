"""What requests may weigh together in a minute, as Binance counts it."""

from __future__ import annotations

import time
from collections.abc import Callable

_MINUTE_S = 60.0


class Budget:
    """The weight used in this minute of the wall clock, by everybody: all of loopback is one address.

    Parameters
    ----------
    limit : int
        What may be used in a minute.
    clock : () -> float
        Wall seconds since any beginning of a minute.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self.limit = limit
        self.used = 0
        self._clock = clock
        self._minute = 0.0

    def spend(self, weight: int) -> float:
        """Count a request, refused ones too; return the seconds until it may come again, 0 where it may pass."""
        minute, within = divmod(self._clock(), _MINUTE_S)
        if minute != self._minute:
            self._minute, self.used = minute, 0
        self.used += weight
        return _MINUTE_S - within if self.used > self.limit else 0.0
