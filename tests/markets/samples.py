"""Small sound files of trades and candles, and what tests do to them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from hypothesis import strategies as st

MINUTE = 60_000_000_000
START = 1_699_920_000_000_000_000  # 2023-11-14, midnight


def trades(n=6, symbol="BTC-USD", first_id=1, start=START, step=MINUTE // 3):
    """Columns of n sound trades."""
    return {
        "symbol": [symbol] * n,
        "ts": [start + k * step for k in range(n)],
        "price": [100.0 + k % 7 for k in range(n)],
        "size": [0.5] * n,
        "side": ["buy" if k % 2 else "sell" for k in range(n)],
        "trade_id": list(range(first_id, first_id + n)),
    }


def candles(n=6, symbol="BTC-USD", start=START, step=MINUTE):
    """Columns of n sound candles."""
    return {
        "symbol": [symbol] * n,
        "ts": [start + k * step for k in range(n)],
        "open": [100.0 + k % 5 for k in range(n)],
        "high": [106.0] * n,
        "low": [99.0] * n,
        "close": [100.0 + k % 3 for k in range(n)],
        "volume": [1.5] * n,
    }


def write(path: Path, columns: dict[str, list], **options) -> Path:
    """Write columns in the format that the path's suffix names."""
    table = pa.table(columns)
    if path.suffix == ".csv":
        pacsv.write_csv(table, path)
    else:
        pq.write_table(table, path, **options)
    return path


def changed(columns: dict[str, list], name: str, row: int, value: object) -> dict[str, list]:
    """Return columns with one cell of a 1-based row changed."""
    cells = list(columns[name])
    cells[row - 1] = value
    return columns | {name: cells}


def drained(feed, max_events=1_000) -> list:
    """Everything a feed has, asked for in portions."""
    events = []
    while not feed.done:
        events += feed.poll(max_events, 0.0)
    return events


def decimals(largest: int) -> st.SearchStrategy[str]:
    """Positive decimals as the exchange writes them: eight places."""
    return st.integers(1, largest * 10**8).map(lambda units: f"{units // 10**8}.{units % 10**8:08d}")
