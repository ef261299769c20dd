from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from domain.config import Model, Places, Project, Publish
from domain.fields import parse_duration, parse_instrument
from domain.fleet import Line
from domain.market import KRAKEN_KEEPS, Market
from tests.domain.samples import LINEAR, LOGISTIC, MINUTE, RLS, SECOND

RIGHT = {"instruments": ["simulated:B", "simulated:C"], "fleet": [RLS.model_dump()]}


def refused(said, **changes):
    with pytest.raises(ValidationError, match=said):
        Project(**(RIGHT | changes))


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("500ms", SECOND // 2),
        ("30s", 30 * SECOND),
        ("5m", 5 * MINUTE),
        ("1h", 60 * MINUTE),
        ("7d", 10_080 * MINUTE),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, nanos):
    assert parse_duration(text) == nanos


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5 m", "1.5h", "5min", "5M", "1h30m", True, None, 2.5, 5])
def test_what_is_no_duration_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match=r"is not a duration; write a number and a unit"):
        parse_duration(text)


@pytest.mark.parametrize("name", ["binance:BTC-USDT", "simulated:A", "x_1:0.B_C-D"])
def test_an_instrument_is_a_venue_and_a_symbol(name):
    assert parse_instrument(name) == name


@pytest.mark.parametrize(
    "name", ["", "BTC-USDT", "Binance:BTC", "a:btc", "a:", ":B", "a:B:C", "a:-B", "a:B C", "a:B/C", "a:B\n"]
)
def test_what_is_no_instrument_is_refused(name):
    with pytest.raises(ValueError, match="is not an instrument"):
        parse_instrument(name)


def test_unknown_keys_are_refused_at_every_level():
    refused("extra_forbidden|not permitted", horizons="5m")
    refused("not permitted", market={"sped": 1})
    refused("not permitted", publish={"example": 1})
    refused("not permitted", fleet=[RLS.model_dump() | {"forget": 0.99}])
    with pytest.raises(ValidationError, match="not permitted"):
        Places(homes="x")


def test_a_value_cannot_be_changed():
    project = Project(**RIGHT)
    with pytest.raises(ValidationError, match="frozen"):
        project.horizon = 1


@pytest.mark.parametrize("horizon", ["90s", "241m", "30s", 0, -60 * SECOND])
def test_the_horizon_is_some_whole_bars(horizon):
    refused("horizon", horizon=horizon)


@pytest.mark.parametrize("name", ["interval", "lateness"])
@pytest.mark.parametrize("value", [0, -1, "0s"])
def test_an_interval_or_lateness_of_nothing_is_refused(name, value):
    refused(name, **{name: value})


def test_a_horizon_in_whole_bars_is_given_in_seconds():
    assert Project(**RIGHT, horizon="240m").horizon_s == 14_400
    assert Project(**RIGHT, interval="1s", horizon="30s").horizon_s == 30


def test_a_name_listed_twice_is_refused():
    refused("instruments lists a name twice", instruments=["simulated:B", "simulated:B"])
    refused("fleet lists a name twice", fleet=[RLS.model_dump(), RLS.model_dump()])
    refused("at least 1 item", instruments=[])
    refused("is not an instrument", instruments=["btc"])


def test_every_target_needs_a_model():
    refused("no model of the fleet learns direction", fleet=[LINEAR.model_dump()])


def test_the_first_model_of_each_target_is_its_champion():
    fleet = (LINEAR, LOGISTIC, RLS)
    assert Project(**(RIGHT | {"fleet": fleet})).fleet == fleet
    assert Line("a:B", fleet).champions == {
        "price_change": "river_linear", "direction": "river_logistic", "volatility": "river_linear",
    }  # fmt: skip
    assert set(Line("a:B", (RLS, LINEAR)).champions.values()) == {"rls"}


def test_an_estimator_belongs_to_a_river_model_and_only_there():
    for wrong in ({"kind": "river"}, {"kind": "rls", "estimator": "x"}):
        with pytest.raises(ValidationError, match="estimator"):
            Model(name="m", targets=("volatility",), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Bad"},
        {"name": "a/b"},
        {"kind": "svm"},
        {"targets": ["price"]},
        {"forgetting": 1.1},
        {"forgetting": 0.5},
        {"clip": 0},
    ],
)
def test_a_model_out_of_its_bounds_is_refused(wrong):
    with pytest.raises(ValidationError):
        Model(**(RLS.model_dump() | wrong))


def test_a_path_belongs_to_a_recorded_market_and_only_there():
    refused("market.path", market={"source": "recorded"})
    refused("market.path", market={"source": "simulated", "path": ["x"]})
    recorded = RIGHT | {"instruments": ["a:B"], "market": {"source": "recorded", "path": ["x"]}}
    assert Project(**recorded).market.path == ("x",)


def test_a_made_up_market_says_so_in_the_name_of_its_instruments():
    for source in ("simulated", "box", "auto"):
        refused("made-up prices; write B, or simulated:B", instruments=["binance:B"], market={"source": source})


def test_a_live_market_s_prices_carry_its_name_only():
    refused("is not of kraken; write B without a venue", instruments=["binance:B"], market={"source": "kraken"})
    refused("is not of binance", instruments=["simulated:B"], market={"source": "binance"})
    refused("is not of okx; write B without a venue", instruments=["binance:B"], market={"source": "ccxt:okx"})


@pytest.mark.parametrize(
    ("source", "live", "tells_days"),
    [
        ("binance", True, True),
        ("kraken", True, False),
        ("ccxt:okx", True, False),
        ("auto", False, True),
        ("box", False, True),
    ],
)
def test_a_live_market_has_real_prices_and_may_not_tell_a_day_once_more(source, live, tells_days):
    market = Market(source=source)
    assert (market.live, market.simulated, market.tells_days) == (live, not live, tells_days)


@pytest.mark.parametrize("source", ["mtgox", "ccxt", "ccxt:", "ccxt:OKX", "ccxt:a b", "CCXT:okx", "ccxt:okx\n", ""])
def test_what_is_no_market_is_refused_with_those_there_are(source):
    refused(
        "is not a market.*; write auto, binance, kraken, .* or ccxt:EXCHANGE, such as ccxt:okx",
        market={"source": source},
    )


def test_what_ccxt_hides_is_not_recorded():
    refused("which ccxt does not show; remove it", instruments=["B"], market={"source": "ccxt:okx", "record": True})


@pytest.mark.parametrize(
    ("source", "venue"),
    [
        ("binance", "binance"),
        ("kraken", "kraken"),
        ("ccxt:okx", "okx"),
        ("box", "simulated"),
        ("auto", "simulated"),
        ("simulated", "simulated"),
    ],
)
def test_a_symbol_alone_is_of_the_market_s_venue(source, venue):
    project = Project(**RIGHT | {"instruments": ["BTC-USDT", f"{venue}:ETH-USDT"], "market": {"source": source}})
    assert project.instruments == (f"{venue}:BTC-USDT", f"{venue}:ETH-USDT")
    refused("lists a name twice", instruments=["BTC-USDT", f"{venue}:BTC-USDT"], market={"source": source})


def test_files_say_their_venues_themselves():
    refused("is not an instrument", instruments=["BTC-USD"], market={"source": "recorded", "path": ["x"]})


def test_history_reaches_no_further_back_than_the_exchange_tells():
    week, minute = 7 * 86_400 * 10**9, 60 * 10**9
    assert Market(source="binance").history_ns(minute) == week
    assert Market(source="kraken").history_ns(minute) == KRAKEN_KEEPS * minute
    assert Market(source="ccxt:kraken").history_ns(minute) == KRAKEN_KEEPS * minute
    assert Market(source="ccxt:okx").history_ns(minute) == week
    assert Market(source="kraken", history_days=1).history_ns(3600 * 10**9) == week // 7


def test_numbers_out_of_their_bounds_are_refused():
    refused("speed", market={"speed": -1})
    refused("history_days", market={"history_days": 0})
    with pytest.raises(ValidationError):
        Publish(examples=0)


def test_the_opening_is_utc_unless_it_says_otherwise():
    utc = Market(opens=datetime(2025, 1, 8, tzinfo=UTC)).opens_ns
    assert Market(opens=datetime(2025, 1, 8)).opens_ns == utc == 1_736_294_400 * SECOND  # noqa: DTZ001
    assert Market(opens=datetime(2025, 1, 8, 1, tzinfo=timezone(timedelta(hours=1)))).opens_ns == utc


def test_places_lie_below_home_unless_said_otherwise(tmp_path):
    places = Places(home=tmp_path)
    assert places.bootstrap == "127.0.0.1:19092"
    assert Places(kafka_bootstrap_servers="k:1").bootstrap == "k:1"
    assert places.control == f"sqlite:///{tmp_path / 'control.sqlite'}"
    assert Places(control_url="postgresql://x").control == "postgresql://x"
    assert {places.lake, places.models, places.state} == {tmp_path / "lake", tmp_path / "models", tmp_path / "state"}


@pytest.mark.parametrize("prefix", ["two words", "a/b", "é"])
def test_a_prefix_is_what_a_topic_name_may_begin_with(prefix):
    with pytest.raises(ValidationError):
        Places(kafka_topic_prefix=prefix)


def test_a_dagster_url_is_postgresql_with_the_installed_driver_and_its_password_is_never_repeated():
    for url in ("postgresql://mill:secret@db/mill", "postgres://mill:secret@db/mill"):
        places = Places(dagster_url=url, control_url=url)
        assert places.dagster_url == "postgresql+psycopg2://mill:secret@db/mill"
        assert "secret" not in repr(places)
    with pytest.raises(ValidationError, match="'mysql' is not PostgreSQL; write postgresql://") as caught:
        Places(dagster_url="mysql://mill:secret@db/mill")
    assert "secret" not in caught.value.errors()[0]["msg"]
