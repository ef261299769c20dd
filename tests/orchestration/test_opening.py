"""A home's market is settled once: which exchange it is and when its stream began; nothing later changes it."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime

import pytest

from domain.config import Places
from domain.errors import BadState, Unavailable, UsageError
from domain.events import NANOS_PER_SECOND
from orchestration.opening import settled_project, wrong_clock
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
    places.models.mkdir()
    (places.models / "first.safetensors").touch()


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


@pytest.mark.parametrize("asked", ["toml", "environment"])
def test_an_exchange_through_ccxt_is_settled_by_its_own_clock(home, monkeypatch, asked):
    from markets.ccxt import CcxtMarket

    at = 1_764_061_261 * NANOS_PER_SECOND
    monkeypatch.setattr(CcxtMarket, "now", lambda market: at if market.instruments[0] == "okx:BTC-USD" else 0)
    places = home("ccxt:okx") if asked == "toml" else home("auto", market="ccxt:okx")
    project = settled_project(places)
    assert (project.market.source, project.market.live) == ("ccxt:okx", True)
    assert project.market.opens_ns == at // project.interval * project.interval
    assert {name.partition(":")[0] for name in project.instruments} == {"okx"}
    assert read_project(home("ccxt:okx" if asked == "toml" else "auto")) == project
    with pytest.raises(UsageError, match="holds the market ccxt:okx, not kraken"):
        read_project(home("auto", market="kraken"))


def test_an_exchange_that_ccxt_does_not_know_settles_nothing(home):
    with pytest.raises(UsageError, match=r"an exchange 'okks'; did you mean ccxt:okx"):
        settled_project(home("ccxt:okks"))
    assert not home("ccxt:okks").home.exists()


@pytest.mark.parametrize("asked", [{"source": "binance"}, {"source": "auto", "market": "box"}])
def test_another_market_needs_another_home(home, asked):
    opened(home("auto"), "kraken")
    with pytest.raises(UsageError, match=r"holds the market kraken, not (binance|box); set TIDEMILL_HOME to another"):
        read_project(home(**asked))


def test_auto_takes_the_first_exchange_that_answers_and_the_box_where_none_does(home, monkeypatch):
    moment, silent = datetime(2026, 11, 27, tzinfo=UTC), {"binance", "kraken"}

    def asked(name, *_):
        if name in silent:
            raise Unavailable(f"{name} does not serve this country")
        return moment

    monkeypatch.setattr("orchestration.opening._asked", asked)
    assert settled_project(home("auto")).market.source == "box"
    Opening.path(home("auto")).unlink()
    silent.remove("kraken")
    project = settled_project(home("auto"))
    assert (project.market.source, project.market.opens) == ("kraken", moment)
    assert {name.partition(":")[0] for name in project.instruments} == {"kraken"}


def test_a_pair_that_an_exchange_lacks_is_told_and_no_made_up_one_takes_its_place(home, monkeypatch):
    def asked(*_):
        raise UsageError("binance:BTC-USD is not traded on binance; did you mean binance:BTC-USDT")

    monkeypatch.setattr("orchestration.opening._asked", asked)
    with pytest.raises(UsageError, match="did you mean binance:BTC-USDT"):
        settled_project(home("auto"))
    assert Opening.of(home("auto")) is None


def test_where_kraken_no_longer_tells_what_a_first_model_would_learn_from_the_home_opens_anew(home, monkeypatch):
    later = datetime(2026, 11, 27, tzinfo=UTC)
    monkeypatch.setattr("orchestration.opening._asked", lambda *_: later)
    opened(home("kraken"), "kraken")
    assert settled_project(home("kraken")).market.opens != later, "it has a model"
    shutil.rmtree(home("kraken").models)
    assert settled_project(home("kraken")).market.opens == later


def test_a_home_with_data_and_no_word_of_its_market_is_opened_by_nobody(home):
    places = home("auto")
    places.lake.mkdir(parents=True)
    with pytest.raises(BadState, match=r"market\.json is missing, and this home holds data .* restore the file"):
        settled_project(places)
    assert Opening.of(places) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 7", "seed = 8", r"market\.seed is 8, but .* holds the market of seed 7"),
        (
            '"BTC-USD", "ETH-USD"',
            '"ETH-USD", "BTC-USD"',
            r"holds simulated:BTC-USD, simulated:ETH-USD; append",
        ),
        ('"BTC-USD", "ETH-USD"', '"BTC-USD"', r"append to these, or set TIDEMILL_HOME"),
    ],
)
def test_what_a_home_holds_cannot_be_changed_beneath_it(home, monkeypatch, old, new, said):
    def nobody(*_):
        raise Unavailable("no internet")

    monkeypatch.setattr("orchestration.opening._asked", nobody)
    places = home("auto")
    text = places.config.read_text()
    text = re.sub("instruments = .*", 'instruments = ["BTC-USD", "ETH-USD"]', text)
    text = re.sub("seed = .*\n", "", text).replace("[market]", "[market]\nseed = 7")
    places.config.write_text(text)
    project = settled_project(places)
    assert read_project(places) == project
    places.config.write_text(text.replace('"ETH-USD"]', '"ETH-USD", "SOL-USD"]'))
    assert read_project(places).instruments[:2] == project.instruments, "more may be appended"
    assert old in text
    places.config.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=said):
        read_project(places)


def test_a_damaged_opening_stops_everything(home):
    opened(home("auto"), "kraken")
    Opening.path(home("auto")).write_text('{"source": "kraken"')
    with pytest.raises(BadState, match=r"market\.json: is damaged; it names the market of this home"):
        read_project(home("auto"))


def test_an_unknown_market_is_refused_by_name(home):
    with pytest.raises(ValueError, match=r"'mtgox' is not a market; write auto, binance, .* or ccxt:EXCHANGE"):
        home("auto", market="mtgox")
    with pytest.raises(UsageError, match=r"'mtgox' is not a market; write auto, binance, .* or ccxt:EXCHANGE"):
        read_project(home("mtgox"))


@pytest.mark.parametrize(
    ("wall", "said"),
    [
        (0, r"this machine's clock is 90 s behind kraken's: ages and latencies are shown that much too small; set it"),
        (180, r"is 90 s ahead of kraken's: ages and latencies are shown that much too large; set it"),
        (88, r"\A\Z"),
    ],
)
def test_a_clock_that_differs_from_the_exchange_s_is_told(wall, said):
    assert re.search(said, wrong_clock("kraken", 90 * NANOS_PER_SECOND, lambda: wall * NANOS_PER_SECOND))
