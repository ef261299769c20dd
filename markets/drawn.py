"""A market drawn from a seed into a candle file: real enough to learn from, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OPENS_MS = 1_700_000_100_000 // 60_000 * 60_000
"""Of the first candle: an hour and a bit before midnight UTC, so that a day's end lies inside."""

MISSING = 0.05
"""Share of the minutes without a trade, which the file leaves out as exchanges do."""


def draw_candles(path: Path, symbols: Sequence[str], minutes: int, seed: int) -> None:
    """Write one-minute candles of each symbol, ``minutes`` long; volatility comes in waves and so can be learned."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        deviation = 4e-4 * np.exp(0.8 * np.sin(np.arange(minutes) / 90.0))
        close = 100.0 * np.exp(np.cumsum(deviation * rng.standard_normal(minutes)))
        opened = np.concatenate([close[:1], close[:-1]])
        kept = np.flatnonzero(rng.random(minutes) > MISSING)
        parts.append(
            pa.table(
                {
                    "symbol": [symbol] * len(kept),
                    "ts": pa.array(OPENS_MS + 60_000 * kept, pa.timestamp("ms", tz="UTC")),
                    "open": opened[kept],
                    "high": (np.maximum(opened, close) * (1 + 1e-4))[kept],
                    "low": (np.minimum(opened, close) * (1 - 1e-4))[kept],
                    "close": close[kept],
                    "volume": rng.gamma(2.0, 3.0, len(kept)),
                }
            )
        )
    pq.write_table(pa.concat_tables(parts).sort_by("ts"), path)
