"""The configured source is the one that is built, and a wrong one is a user's mistake in one line."""

from __future__ import annotations

import asyncio

import pytest

from domain.config import Model, Places, Project
from domain.errors import Unavailable, UsageError
from domain.events import NANOS_PER_DAY as DAY
from domain.market import Market
from markets.binance import Binance
from markets.catalog import simulated_of, source_of
from markets.recorded import Recorded
from markets.rest import RestClient
from tests.markets.box import box_of
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


@pytest.mark.process
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


@pytest.mark.parametrize(
    ("source", "instrument"),
    [("binance", "binance:BTC-USDT"), ("kraken", "kraken:BTC-USDT"), ("ccxt:okx", "okx:BTC-USDT")],
)
def test_a_live_exchange_has_candles_before_its_trades_and_is_asked_nothing_yet(source, instrument):
    live = source_of(project(Market(source=source), "BTC-USDT", interval="5m"))
    assert (live.kind, live.interval, live.simulated) == ("trades", 5 * MINUTE, False)
    assert live.instruments == (instrument,)


@pytest.mark.process
def test_the_box_is_read_where_it_answers_and_recorded_when_wanted(tmp_path):
    asked = project(Market(source="box"), "BTC-USDT")
    with box_of(simulated_of(asked), 600.0) as box:
        places = Places(home=tmp_path, exchange_port=int(box.url.rpartition(":")[2]))
        source = source_of(asked, places, record=True)
        assert source.simulated
        feed = source.open({}, 1.0)
        trades = []
        while len(trades) < 50:
            trades += feed.poll(1_000, 1.0)
        feed.close()
    files = [str(path) for path in (tmp_path / "recordings").rglob("*trades*.parquet")]
    kept = Recorded(files, instruments=["simulated:BTC-USDT"])
    [table] = kept.history("simulated:BTC-USDT", 0, 2**62)
    assert table.trade_id.tolist() == [trade.trade_id for trade in trades]
    assert table.price.tolist() == [trade.price for trade in trades]


@pytest.mark.process
@pytest.mark.parametrize("seed", [7, 8])
def test_the_box_tells_long_history_by_archives_of_which_a_home_keeps_none(tmp_path_factory, seed):
    """That it was the archives is shown by a file that stays spoilt."""
    home = tmp_path_factory.getbasetemp() / "one home"
    asked, name = project(Market(source="box", seed=seed, history_days=33), "BTC-USDT"), "simulated:BTC-USDT"
    window = asked.market.opens_ns - 33 * DAY, asked.market.opens_ns - 30 * DAY + MINUTE

    async def requested():
        async with RestClient(box.url, 6_000) as rest:
            return [page async for page in Binance("simulated").candles(rest, name, MINUTE, *window)]

    def values(tables):
        return b"".join(table.values.tobytes() for table in tables)

    with box_of(simulated_of(asked), 0) as box:
        source = source_of(asked, Places(home=home, exchange_port=int(box.url.rpartition(":")[2])))
        assert values(source.history(name, *window)) == values(asyncio.run(requested()))
        box.fault("checksum", 2)
        with pytest.raises(Unavailable, match="has the SHA-256"):
            list(source.history(name, *window))
    assert not (home / "archives").exists()
