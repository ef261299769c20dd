"""One short market, recorded to a file by the test, for the walk of one trade through the real processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.planned import Planned, as_toml, plan

MINUTES = 1_500
START_MS = 1_700_000_100_000 // 60_000 * 60_000


def write_candles(path: Path, symbols: tuple[str, ...], minutes: int = MINUTES, seed: int = 5) -> dict[str, int]:
    """Write candles with missing minutes; return how many bars each symbol spans, the missing ones included."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[object]] = {name: [] for name in ("symbol", "ts", "open", "high", "low", "close", "volume")}
    spans = {}
    for symbol in symbols:
        kept = np.flatnonzero(rng.random(minutes) > 0.05)
        deviation = 4e-4 * np.exp(0.8 * np.sin(np.arange(minutes) / 90.0))
        close = 100.0 * np.exp(np.cumsum(deviation * rng.standard_normal(minutes)))
        opened = np.concatenate([close[:1], close[:-1]])
        high, low = (f(opened, close) * (1 + s * 1e-4) for f, s in ((np.maximum, 1), (np.minimum, -1)))
        columns["symbol"] += [symbol] * len(kept)
        columns["ts"] += (START_MS + 60_000 * kept).tolist()
        for name, values in (("open", opened), ("high", high), ("low", low), ("close", close)):
            columns[name] += values[kept].tolist()
        columns["volume"] += rng.gamma(2.0, 3.0, len(kept)).tolist()
        spans[symbol] = int(kept[-1] - kept[0]) + 1
    order = np.argsort(columns["ts"], kind="stable")
    table = pa.table(
        {
            name: pa.array(values, pa.timestamp("ms", tz="UTC") if name == "ts" else None)
            for name, values in columns.items()
        }
    )
    pq.write_table(table.take(pa.array(order)), path)
    return spans


@pytest.fixture
def candles(tmp_path):
    """Return a file of two symbols and the bars it spans."""
    path = tmp_path / "candles.parquet"
    return path, write_candles(path, ("AAA-USD", "BBB-USD"))


@pytest.fixture
def planned(candles, tmp_path):
    """Return a plan that publishes often, so that a killed trainer has versions to come back to."""
    path, _ = candles
    with plan([path], "", "", "", [], tmp_path / "home") as made:
        yield with_publishing(made, 40)


def with_publishing(made: Planned, examples: int) -> Planned:
    """Return the plan with a version after so many examples."""
    project = made.project.model_copy(
        update={"publish": made.project.publish.model_copy(update={"examples": examples})}
    )
    made.places.config.write_text(as_toml(project), "utf-8")
    return replace(made, project=project)
