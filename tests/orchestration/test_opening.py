"""A home's market is settled once: which exchange it is and when its stream began; nothing later changes it."""

from __future__ import annotations

import pytest

from domain.config import Places
from domain.errors import BadState, UsageError
from orchestration.opening import settled_project
from orchestration.settings import Opening, read_project
from tests.mills import TOML

SYMBOLS = TOML.replace("simulated:", "").replace("[market]", "[market]\nsource = SOURCE")


@pytest.fixture
def home(tmp_path):
    """Places of a home whose configuration asks for a market."""

    def asking(source, market=""):
        (tmp_path / "tidemill.toml").write_text(SYMBOLS.replace("SOURCE", f'"{source}"'))
        return Places(home=tmp_path / "home", config=tmp_path / "tidemill.toml", market=market)

    return asking


def opened(places, source, configured="auto"):
    text = f'{{"source": "{source}", "opens": "2026-11-25T09:00:00Z", "configured": "{configured}"}}'
    places.home.mkdir(parents=True)
    Opening.path(places).write_text(text)


def test_a_made_up_market_asks_nobody_and_settles_nothing(home):
    for source in ("simulated", "box"):
        assert settled_project(home(source)).market.source == source
    assert not home("box").home.exists()


def test_what_the_home_holds_wins_over_what_is_configured(home):
    opened(home("auto"), "kraken")
    project = settled_project(home("auto"))
    assert project.market.source == "kraken"
    assert project.market.opens.isoformat() == "2026-11-25T09:00:00+00:00"
    assert {name.partition(":")[0] for name in project.instruments} == {"kraken"}
    assert read_project(home("kraken")) == project


def test_the_environment_chooses_the_market_of_a_new_home(home):
    project = read_project(home("simulated", market="binance"))
    assert {name.partition(":")[0] for name in project.instruments} == {"binance"}
    opened(home("simulated"), "binance", configured="simulated")
    assert read_project(home("simulated")).market.source == "binance", "also in a shell without the variable"


@pytest.mark.parametrize("asked", [{"source": "binance"}, {"source": "auto", "market": "box"}])
def test_another_market_needs_another_home(home, asked):
    opened(home("auto"), "kraken")
    with pytest.raises(UsageError, match=r"holds the market kraken, not (binance|box); set TIDEMILL_HOME to another"):
        read_project(home(**asked))


def test_a_damaged_opening_stops_everything(home):
    opened(home("auto"), "kraken")
    Opening.path(home("auto")).write_text('{"source": "kraken"')
    with pytest.raises(BadState, match=r"market\.json: is damaged; it names the market of this home"):
        read_project(home("auto"))


def test_an_unknown_market_is_refused_by_name(home):
    with pytest.raises(
        UsageError, match=r"market\.source: 'mtgox' is no market; write auto, binance, .* or ccxt:EXCHANGE"
    ):
        read_project(home("auto", market="mtgox"))
