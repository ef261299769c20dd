"""What a feature vector and its targets are, and how they are computed: a pure function of the last ``MEMORY`` bars.

Finite memory by definition is what makes batch and stream agree bit for bit: whoever reads 240 bars of lead computes
the same vector, from whichever day, file or checkpoint it starts. Exponential averages are cut off at the window.

References
----------
Realised-volatility averages over several windows: Corsi, A Simple Approximate Long-Memory Model of Realized
Volatility, Journal of Financial Econometrics 7(2), 2009, doi:10.1093/jjfinec/nbp001. High-low ranges: Parkinson, The
Extreme Value Method for Estimating the Variance of the Rate of Return, Journal of Business 53(1), 1980,
doi:10.1086/296071.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from domain.bars import CLOSE, HIGH, LOW, MISSING, VOLUME
from domain.events import NANOS_PER_DAY, Time
from domain.tables import BarTable, ExampleTable, Floats, Ints, VectorTable

FEATURES = (
    "lrv5",  # log rms one-bar return of the last 5 bars, bp: ln(rms + 0.1); likewise below
    "lrv15",
    "lrv60",
    "lrv240",
    "ew10",  # the same with exponential weights, half-life 10 bars
    "ew60",
    "lrng5",  # log mean high-low range of the last 5 bars, bp: ln(mean + 0.1)
    "lrng30",
    "ret1",  # last one-bar log return, bp
    "abs1",  # its absolute value
    "lvol",  # ln(1 + volume)
    "lvol_d",  # lvol less its exponential average, half-life 60 bars
    "miss",  # 1 when the bar had no trade
    "tod_sin",  # time of day of the bar's end, UTC, as a point on the circle
    "tod_cos",
    "weekend",  # 1 on Saturday and Sunday, UTC
)
TARGETS = ("price_change", "direction", "volatility")

WINDOW = 240
MEMORY = WINDOW + 1
"""Bars that a vector looks at: 240 one-bar returns need 241 closes."""

_BP = 1e4
_FLOOR = 0.1  # basis points: keeps the logarithm finite in a market that stands still
_EW10 = 0.5 ** (np.arange(WINDOW) / 10.0)
_EW60 = 0.5 ** (np.arange(WINDOW) / 60.0)
_EW10_SUM = float(np.add.accumulate(_EW10)[-1])
_EW60_SUM = float(np.add.accumulate(_EW60)[-1])
_THURSDAY = 3  # 1 January 1970, counting Monday as 0
_SATURDAY = 5


@njit(cache=True)
def _prepare(values: Floats) -> Floats:
    """Return per bar: one-bar return in bp, its square, high-low range in bp and log volume."""
    n = len(values)
    out = np.zeros((n, 4))
    for i in range(n):
        if i > 0:
            r = _BP * math.log(values[i, CLOSE] / values[i - 1, CLOSE])
            out[i, 0] = r
            out[i, 1] = r * r
        out[i, 2] = _BP * math.log(values[i, HIGH] / values[i, LOW])
        out[i, 3] = math.log(1.0 + values[i, VOLUME])
    return out


@njit(cache=True)
def _vector(ts: int, i: int, prepared: Floats, missing: float, x: Floats) -> None:
    squares = ew10 = ew60 = volume = 0.0
    for k in range(WINDOW):
        square = prepared[i - k, 1]
        squares += square
        ew10 += _EW10[k] * square
        ew60 += _EW60[k] * square
        volume += _EW60[k] * prepared[i - k, 3]
        if k == 4:
            x[0] = math.log(math.sqrt(squares / 5.0) + _FLOOR)
        elif k == 14:
            x[1] = math.log(math.sqrt(squares / 15.0) + _FLOOR)
        elif k == 59:
            x[2] = math.log(math.sqrt(squares / 60.0) + _FLOOR)
    x[3] = math.log(math.sqrt(squares / 240.0) + _FLOOR)
    x[4] = math.log(math.sqrt(ew10 / _EW10_SUM) + _FLOOR)
    x[5] = math.log(math.sqrt(ew60 / _EW60_SUM) + _FLOOR)
    ranges = 0.0
    for k in range(30):
        ranges += prepared[i - k, 2]
        if k == 4:
            x[6] = math.log(ranges / 5.0 + _FLOOR)
    x[7] = math.log(ranges / 30.0 + _FLOOR)
    x[8] = prepared[i, 0]
    x[9] = abs(prepared[i, 0])
    x[10] = prepared[i, 3]
    x[11] = prepared[i, 3] - volume / _EW60_SUM
    x[12] = missing
    angle = 2.0 * math.pi * (ts % NANOS_PER_DAY) / NANOS_PER_DAY
    x[13] = math.sin(angle)
    x[14] = math.cos(angle)
    x[15] = 1.0 if (ts // NANOS_PER_DAY + _THURSDAY) % 7 >= _SATURDAY else 0.0


@njit(cache=True)
def _vectors(ts: Ints, values: Floats, first: int, interval: int) -> tuple[Ints, Floats]:
    n = len(ts)
    prepared = _prepare(values)
    out_ts, out, m = np.empty(max(0, n - first), np.int64), np.empty((max(0, n - first), 16)), 0
    for i in range(first, n):
        # A window with a hole in it is no window: the bars must be contiguous in event time.
        if i >= WINDOW and ts[i] - ts[i - WINDOW] == WINDOW * interval:
            _vector(ts[i], i, prepared, values[i, MISSING], out[m])
            out_ts[m] = ts[i]
            m += 1
    return out_ts[:m].copy(), out[:m].copy()


@njit(cache=True)
def _targets(ts: Ints, values: Floats, at: Ints, horizon: int, interval: int) -> tuple[Ints, Floats]:
    """Return for each time in ``at`` whether its targets are known (0 or 1), and the targets."""
    h = horizon // interval
    n = len(ts)
    known, out = np.zeros(len(at), np.int64), np.empty((len(at), 3))
    for j in range(len(at)):
        i = np.searchsorted(ts, at[j])  # by time, not by count: there may be a hole in the bars before it
        if i + h >= n or ts[i] != at[j] or ts[i + h] != at[j] + horizon:
            continue
        squares = 0.0
        for k in range(i + 1, i + h + 1):
            r = _BP * math.log(values[k, CLOSE] / values[k - 1, CLOSE])
            squares += r * r
        change = _BP * math.log(values[i + h, CLOSE] / values[i, CLOSE])
        out[j, 0] = change
        out[j, 1] = np.nan if change == 0.0 else (1.0 if change > 0.0 else 0.0)
        out[j, 2] = math.log(math.sqrt(squares / h) + _FLOOR)
        known[j] = 1
    return known, out


def vectors(bars: BarTable, after: int, interval: int) -> VectorTable:
    """Return the vector of every bar that ends after ``after`` and has a full window before it.

    Parameters
    ----------
    bars
        Contiguous bars of one instrument, including ``WINDOW`` bars of lead.
    after, interval : int
        Nanoseconds.
    """
    first = int(np.searchsorted(bars.ts, after, side="right"))
    ts, values = _vectors(bars.ts, bars.values, first, interval)
    return VectorTable(ts, values)


def examples(bars: BarTable, asked: VectorTable, after: int, horizon: int, interval: int) -> ExampleTable:
    """Return the examples that became available after ``after``: vectors whose horizon the bars have reached.

    Notes
    -----
    A label is looked up by event time: a vector at ``t`` takes the close of the bar that ends at ``t + horizon``, and
    has no label while there is no such bar.
    """
    due = asked.ts + horizon > after
    ts, x = asked.ts[due], asked.values[due]
    known, y = _targets(bars.ts, bars.values, ts, horizon, interval)
    keep = known == 1
    return ExampleTable(ts[keep], ts[keep] + horizon, x[keep], y[keep])


VectorRecord = msgspec.defstruct(
    "VectorRecord", [("instrument", str), ("ts_event", Time), *((name, float) for name in FEATURES)], gc=False
)
"""A vector as a flat record of topic ``features``."""

ExampleRecord = msgspec.defstruct(
    "ExampleRecord",
    [
        ("instrument", str),
        ("ts_event", Time),
        *((name, float) for name in FEATURES),
        ("ts_available", Time),
        ("horizon_s", Annotated[int, msgspec.Meta(ge=1, le=2**31)]),
        ("price_change", float),
        ("direction", float | None),
        ("volatility", float),
    ],
    gc=False,
)
"""A vector with its targets as a flat record of topic ``features_with_target``; direction is null for no move."""
