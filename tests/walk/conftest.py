"""What is walked through: a short market drawn into a file, or a whole Tidemill with a browser on its Dagster."""

import os
from dataclasses import replace
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from markets.drawn import draw_candles
from orchestration.planned import Planned, as_toml, plan
from orchestration.privacy import UMASK
from tests.walk.screen import CHROMIUM, opened
from tests.walk.up import Mill, gone

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


@pytest.fixture(scope="package")
def mill(tmp_path_factory):
    """Start the one Tidemill of all tests that look at a whole one, and prove that `down` ends all of it."""
    made = Mill(tmp_path_factory.mktemp("up") / "home")
    umask = os.umask(UMASK)  # of what the tests themselves write into the home
    try:
        up = made.run("up", "--wait", "420")
        assert up.returncode == 0, up.stderr + "\n" + made.run("logs", "-n", "5").stdout
        assert "first prediction" in up.stdout
        yield made
    finally:
        os.umask(umask)
        made.run("down")
    assert gone(made.home), "tidemill down left a process behind"


@pytest.fixture
def screen(mill):
    """Open a browser on its Dagster; whatever a test did there, no page may have failed."""
    if CHROMIUM is None:
        pytest.skip("chromium is not here")
    with opened(mill) as screen:
        yield screen
        screen.look()
    assert not screen.failures
