"""Columns of one instrument's rows, as plain arrays in event-time order: what step functions read and write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Sides = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TradeTable:
    """Trades of one instrument, ``n`` rows; units as in ``domain.events.Trade``."""

    ts: Ints
    trade_id: Ints
    price: Floats
    size: Floats
    side: Sides

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class BarTable:
    """Bars of one instrument.

    Attributes
    ----------
    ts : int64[n]
        END of each interval, ns.
    values : float64[n, 10]
        In the order of ``domain.bars.BAR_COLUMNS``.
    """

    ts: Ints
    values: Floats

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class VectorTable:
    """Feature vectors of one instrument: ``ts`` int64[n], ``values`` float64[n, 16] in the order of ``FEATURES``."""

    ts: Ints
    values: Floats

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class ExampleTable:
    """Vectors with their targets, in order of availability.

    Attributes
    ----------
    ts, available : int64[n]
        When the vector was known, and when its targets were: ``available = ts + horizon``.
    values : float64[n, 16]
    targets : float64[n, 3]
        In the order of ``TARGETS``; direction is NaN where the price did not move.
    """

    ts: Ints
    available: Ints
    values: Floats
    targets: Floats

    def __len__(self) -> int:
        return len(self.ts)
