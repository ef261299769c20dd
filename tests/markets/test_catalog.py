"""The configured source is the one that is built, and a wrong one is a user's mistake in one line."""

from __future__ import annotations

import pytest

from domain.config import Market, Model, Project
from domain.errors import UsageError
from markets.catalog import source_of
from tests.markets.samples import MINUTE, candles, trades, write

FLEET = (Model(name="rls", kind="rls", targets=("price_change", "direction", "volatility")),)


def project(market: Market, *instruments: str, **settings) -> Project:
    return Project(instruments=instruments, market=market, fleet=FLEET, **settings)


def recorded(path, *instruments, **settings):
    return project(Market(source="recorded", path=(str(path),)), *instruments, **settings)


def test_the_default_market_is_simulated():
    source = source_of(project(Market(), "simulated:BTC-USD", "simulated:ETH-USD"))
    assert source.simulated
    assert source.instruments == ("simulated:BTC-USD", "simulated:ETH-USD")
    assert source.span("simulated:BTC-USD")[1] == Market().opens_ns


def test_recorded_files_serve_the_projects_instruments(tmp_path):
    source = source_of(recorded(write(tmp_path / "t.csv", trades()), "recorded:BTC-USD"))
    assert (source.kind, source.simulated, source.instruments) == ("trades", False, ("recorded:BTC-USD",))


def test_an_instrument_that_the_files_lack_is_refused_with_what_they_have(tmp_path):
    with pytest.raises(UsageError, match="has no instrument recorded:ETH-USD; set instruments from recorded:BTC-USD"):
        source_of(recorded(write(tmp_path / "t.csv", trades()), "recorded:BTC-USD", "recorded:ETH-USD"))


def test_candles_must_be_as_long_as_the_projects_bars(tmp_path):
    path = write(tmp_path / "c.csv", candles(20, step=5 * MINUTE))
    with pytest.raises(UsageError, match=r'has candles of 5m, the project bars of 1m; set interval = "5m"'):
        source_of(recorded(path, "recorded:BTC-USD"))
    assert source_of(recorded(path, "recorded:BTC-USD", interval="5m")).interval == 5 * MINUTE


def test_an_unknown_source_is_refused():
    market = Market.model_construct(source="dice", path=())
    with pytest.raises(UsageError, match=r"unknown source 'dice'; set market\.source to auto, binance, "):
        source_of(Project.model_construct(instruments=("x:Y",), market=market, fleet=FLEET))
