"""The market behind the interfaces: what was traded by now, under the names of its listings."""

from __future__ import annotations

from functools import cache

import numpy as np

from domain.events import NANOS_PER_DAY
from markets.box.candles import CandleBook
from markets.box.clock import MarketClock
from markets.box.listing import Listing, listings_of
from markets.box.tape import Tape
from markets.source import Source


def decimal(steps: int) -> str:
    """Return steps of 1e-8 as a decimal with all its eight places, which is how exchanges write them.

    >>> decimal(6183763000000)
    '61837.63000000'
    """
    return f"{steps // 100_000_000}.{steps % 100_000_000:08d}"


class Market:
    """One market and its clock.

    Parameters
    ----------
    source
        Of trades.
    clock
        Until when they have happened.

    Raises
    ------
    UsageError
        When the source has no trades, or an instrument cannot be listed.
    """

    def __init__(self, source: Source, clock: MarketClock) -> None:
        self.listings = listings_of(source.instruments)
        self.clock = clock
        # A recording of a made-up market is one, too.
        self.simulated = source.simulated or any(name.startswith("simulated:") for name in source.instruments)
        self.tape = Tape(source)
        self.candles = CandleBook(self.tape)
        self.steps = cache(self._steps)

    def _steps(self, listing: Listing) -> tuple[int, int]:
        """Return the smallest steps of price and of size on the day of its first trades, in 1e-8."""
        begins = self.tape.begins(listing.instrument)
        trades = self.tape.first(listing.instrument, begins, begins + NANOS_PER_DAY, 10_000)
        return (int(np.gcd.reduce(trades.price)), int(np.gcd.reduce(trades.size))) if len(trades) else (1, 1)
