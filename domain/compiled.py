"""Builds the compiled functions into numba's cache: ``python -m domain.compiled``, once after an installation.

A function is compiled when it is first called, for the types it is called with. Without this, the processes of a first
start all compile the same functions at the same time.
"""

from __future__ import annotations

import numpy as np

from domain.bars import BAR_COLUMNS, BarState, add_candles, add_trades, close_until
from domain.config import Model
from domain.events import NANOS_PER_MINUTE
from domain.features import examples, vectors
from domain.fleet import Line
from domain.sequence import judge
from domain.tables import BarTable, TradeTable
from domain.tape import merge

BARS = 400
"""Enough for vectors, which look back four hours."""


def build() -> None:
    """Take a short market through every compiled step: trades and candles to bars, vectors, labels, models, scores."""
    interval, horizon, rng = NANOS_PER_MINUTE, 5 * NANOS_PER_MINUTE, np.random.default_rng(1)
    ts = np.arange(1, BARS + 1) * interval
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, BARS)))
    trades = TradeTable(ts - 1, np.arange(BARS), price, np.ones(BARS), np.ones(BARS, np.int8))
    state = BarState.empty(interval, interval)
    bars, _ = add_trades(state, trades, interval, interval)
    close_until(state, int(ts[-1]), interval)
    judge(bars.ts, 0, interval)

    candles = np.repeat(price[:, None], len(BAR_COLUMNS), axis=1)
    bars, _ = add_candles(BarState.empty(interval, 0), BarTable(ts, candles), interval)

    asked = vectors(bars, 0, interval)
    labelled = examples(bars, asked, 0, horizon, interval)
    line = Line("compiled:BUILD", (Model(name="rls", kind="rls", targets=("price_change", "direction", "volatility")),))
    line.advance(merge(asked, labelled), int(ts[-1]))


if __name__ == "__main__":
    build()
