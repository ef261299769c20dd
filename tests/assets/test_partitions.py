"""The days of history, of made-up and of recorded markets."""

import pytest

from assets.partitions import TRAINING_SHARE, days_of, history_of
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.catalog import source_of
from tests.mills import TOML, mill_at


def test_a_simulated_history_ends_where_the_market_opens(tmp_path):
    project = mill_at(tmp_path).project
    history = history_of(project)
    assert (history.start, history.until) == (project.market.opens_ns - 2 * NANOS_PER_DAY, project.market.opens_ns)
    assert days_of(history).get_partition_keys()[:2] == ["2025-01-01", "2025-01-02"]


def test_a_market_that_goes_on_always_has_days_ahead(tmp_path):
    history = history_of(mill_at(tmp_path).project)
    later = history.until + 100 * NANOS_PER_DAY
    assert "2025-04-30" not in days_of(history).get_partition_keys()
    assert "2025-04-30" in days_of(history, later).get_partition_keys()


@pytest.fixture
def recorded(tmp_path, shelf):
    path = shelf("candles_1m_bitfinex_small_201912w1.parquet").resolve()

    def at(opens):
        market = f'[market]\nsource = "recorded"\npath = ["{path}"]\nopens = {opens}\n'
        head, _, tail = TOML.partition("[market]")
        head = head.replace('"simulated:BTC-USD", "simulated:ETH-USD"', '"recorded:BTC-USD"')
        return mill_at(tmp_path, head + market + tail[tail.index("[[fleet]]") :]).project

    return at


def test_a_recording_is_divided_at_the_opening_when_that_lies_inside(recorded):
    project = recorded("2019-12-03T12:00:00Z")
    assert history_of(project).until == project.market.opens_ns


def test_a_recording_is_divided_by_share_otherwise_and_all_its_days_are_partitions(recorded):
    project = recorded("2030-01-01T00:00:00Z")
    history = history_of(project)
    first, last = source_of(project).span(project.instruments[0])
    assert history.start == first - NANOS_PER_MINUTE
    assert history.until % project.interval == 0
    assert (history.until - history.start) / (last - history.start) == pytest.approx(TRAINING_SHARE, abs=1e-3)
    keys = days_of(history).get_partition_keys()
    assert (keys[0], len(keys)) == ("2019-12-01", -(-(last - first) // NANOS_PER_DAY))
