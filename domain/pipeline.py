"""From bars to vectors and examples, a few bars or a year at a time: what the featurizer and the backfill both call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.bars import BAR_COLUMNS
from domain.features import WINDOW, examples, vectors
from domain.tables import BarTable, ExampleTable, VectorTable


def lead(horizon: int, interval: int) -> int:
    """Return how many bars must precede a bar so that its vector and the examples it matures can be computed."""
    return WINDOW + horizon // interval


@dataclass
class Pipeline:
    """Turns one instrument's bars into vectors and examples.

    Attributes
    ----------
    interval, horizon : int
        Nanoseconds.
    tail : the newest bars, as many as the next one needs
    """

    interval: int
    horizon: int
    tail: BarTable

    @classmethod
    def empty(cls, interval: int, horizon: int) -> Pipeline:
        """Return the pipeline before its first bar."""
        return cls(interval, horizon, BarTable(np.empty(0, np.int64), np.empty((0, len(BAR_COLUMNS)))))

    @property
    def newest(self) -> int:
        """End of the newest bar, ns; 0 before the first."""
        return int(self.tail.ts[-1]) if len(self.tail) else 0

    def extend(self, bars: BarTable) -> tuple[VectorTable, ExampleTable]:
        """Add bars and return the vectors they complete and the examples they mature, in event order.

        Parameters
        ----------
        bars
            Gap-filled; each that is not newer than all before it is dropped, as a replayed topic repeats them.
        """
        newest = self.newest
        fresh = bars.ts > np.maximum.accumulate(np.concatenate([[newest], bars.ts]))[:-1]
        every = BarTable(
            np.concatenate([self.tail.ts, bars.ts[fresh]]), np.concatenate([self.tail.values, bars.values[fresh]])
        )
        # The vectors of the last horizon are computed again: they are a pure function of the bars, and cheap.
        recent = vectors(every, newest - self.horizon, self.interval)
        matured = examples(every, recent, newest, self.horizon, self.interval)
        keep = lead(self.horizon, self.interval)
        self.tail = BarTable(every.ts[-keep:].copy(), every.values[-keep:].copy())
        return VectorTable(recent.ts[recent.ts > newest], recent.values[recent.ts > newest]), matured
