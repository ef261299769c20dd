"""The clock as an argument: wall time for health and latency, never for what is learned."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the services ask of time."""

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for intervals."""
        ...


class SystemClock:
    """The machine's."""

    def time_ns(self) -> int:
        """See ``Clock``."""
        return time.time_ns()

    def monotonic(self) -> float:
        """See ``Clock``."""
        return time.monotonic()
