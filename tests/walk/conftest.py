"""One short market, drawn into a file, for the walk of one trade through the real processes."""

from dataclasses import replace
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from markets.drawn import draw_candles
from orchestration.planned import Planned, as_toml, plan

MINUTES = 1_500


@pytest.fixture
def candles(tmp_path):
    """Return a file of two symbols and the bars that each spans, minutes without a candle included."""
    path = tmp_path / "candles.parquet"
    draw_candles(path, ("AAA-USD", "BBB-USD"), MINUTES, seed=5)
    times = pq.read_table(path).group_by("symbol").aggregate([("ts", "min"), ("ts", "max")]).to_pylist()
    return path, {row["symbol"]: (row["ts_max"] - row["ts_min"]) // timedelta(minutes=1) + 1 for row in times}


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
