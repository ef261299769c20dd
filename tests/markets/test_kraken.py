"""Kraken's frames (version 2), times and names."""

from __future__ import annotations

import json as plain_json
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRecord, UsageError
from domain.events import BUY, NANOS_PER_SECOND, SELL, Trade
from markets.kraken import Kraken
from markets.kraken_wire import Stamps, nanos_of
from markets.venue import Closing, Notice
from tests.markets.samples import START

BTC = "kraken:BTC-USD"
SECOND = START // NANOS_PER_SECOND

TRADE = {"symbol": "BTC/USD", "side": "sell", "price": 0.5117, "qty": 40.0, "ord_type": "market", "trade_id": 4_665_906,
         "timestamp": "2023-09-25T07:49:37.708706Z"}  # fmt: skip


def frame(*trades: dict, channel="trade", kind="update") -> bytes:
    """A frame of trades, each with some fields changed; None leaves one out."""
    data = [{name: value for name, value in (TRADE | changes).items() if value is not None} for changes in trades]
    return plain_json.dumps({"channel": channel, "type": kind, "data": data}).encode()


def test_a_frame_may_hold_trades_of_several_symbols():
    got = Kraken().read(frame({}, {"symbol": "MATIC/USD", "side": "buy", "trade_id": 7}, {"trade_id": 4_665_907}))
    ts = 1_695_628_177_708_706_000
    assert got == [
        Trade(BTC, ts, 4_665_906, 0.5117, 40.0, SELL),
        Trade("kraken:MATIC-USD", ts, 7, 0.5117, 40.0, BUY),
        Trade(BTC, ts, 4_665_907, 0.5117, 40.0, SELL),
    ]


@given(st.integers(0, 4_000_000_000), st.integers(0, 9), st.data())
def test_a_time_is_read_to_its_last_digit(second, places, data):
    digits = data.draw(st.text("0123456789", min_size=places, max_size=places))
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    exact = int((second + Fraction(int(digits or "0"), 10**places)) * NANOS_PER_SECOND)
    text = f"{whole:%Y-%m-%dT%H:%M:%S}{'.' * bool(digits)}{digits}Z"
    stamps = Stamps()
    assert stamps.read("2001-01-01T00:00:00Z") == 978_307_200 * NANOS_PER_SECOND
    assert stamps.read(text) == stamps.read(text) == exact
    assert nanos_of(f"{second}{'.' * bool(digits)}{digits}") == exact


@pytest.mark.parametrize(
    "text", ["", "2023-09-25", "2023-09-25T07:49:37", "2023-09-25T07:49:37.70", "2023-09-25T07:49:37.7+01:00",
             "2023-09-25T07:49:37.-1Z", "2023-09-25T07:49:37.Z", "2023-13-25T07:49:37Z", "2023-09-25T07:49:37,5Z"],
)  # fmt: skip
def test_what_is_no_time_in_utc_is_a_changed_format(text):
    with pytest.raises(BadRecord, match="cannot be read"):
        Kraken().read(frame({"timestamp": text}))


@pytest.mark.parametrize("text", ["", "1.", ".5", "-1.5", "1.5e3", "1_0.5", "x"])
def test_what_is_no_number_of_seconds_is_refused(text):
    with pytest.raises(ValueError, match="no time"):
        nanos_of(text)


@given(price=st.integers(1, 10**14), size=st.integers(1, 10**15))
def test_a_number_becomes_the_nearest_double(price, size):
    price_text, size_text = (f"{units // 10**8}.{units % 10**8:08d}" for units in (price, size))
    text = frame({"price": "P", "qty": "Q"}).replace(b'"P"', price_text.encode()).replace(b'"Q"', size_text.encode())
    [trade] = Kraken().read(text)
    assert (trade.price, trade.size) == (float(Fraction(price_text)), float(Fraction(size_text)))


@pytest.mark.parametrize(
    "text",
    [
        '{"channel":"heartbeat"}',
        '{"method":"subscribe","result":{"channel":"trade","symbol":"BTC/USD"},"success":true,"req_id":1}',
        '{"method":"subscribe","success":false,"error":"Already subscribed","symbol":"BTC/USD","req_id":1}',
        frame({}, kind="snapshot"),
        frame(),
    ],
)
def test_what_is_no_new_trade_is_left_out(text):
    assert Kraken().read(text) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('[{"system":"online","api_version":"v2","connection_id":1}]', ""),
        ('[{"system":"maintenance"}]', "kraken is in maintenance: nothing is traded"),
        ('[{"system":"cancel_only"}]', "kraken is in cancel_only: nothing is traded"),
        ("[]", ""),
        ('"new format"', ""),
    ],
)
def test_how_the_exchange_is_is_a_notice(data, said):
    with pytest.raises(Notice) as caught:
        Kraken().read(f'{{"channel":"status","type":"update","data":{data}}}')
    assert str(caught.value) == said


def test_a_refused_subscription_names_the_symbol():
    with pytest.raises(UsageError, match="Currency pair not supported XBT/USD"):
        Kraken().read(
            '{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,"symbol":"XBT/USD"}'
        )


@pytest.mark.parametrize("error", ["EAPI:Rate limit exceeded", "Exceeded msg rate", "EService:Unavailable"])
def test_a_subscription_that_is_refused_for_now_ends_the_connection(error):
    with pytest.raises(Closing, match=error):
        Kraken().read(plain_json.dumps({"method": "subscribe", "success": False, "error": error}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((frame({name: None}), f"`{name}`") for name in TRADE if name != "ord_type"),
        *((frame({}, {name: [1]}), f"`$.data[1].{name}`") for name in TRADE if name != "ord_type"),
        (frame({"side": "b"}), "'b'"),
        (frame({"price": -1.0}), "price -1.0"),
        (frame({"qty": 0}), "qty 0.0"),
        (frame({}, kind="updates"), "$.type"),
        (b'{"channel":"trade","type":"update","trades":[]}', "`data`"),
        (b"<html>", "malformed"),
    ],
)
def test_a_changed_format_names_the_field(text, words):
    with pytest.raises(BadRecord) as caught:
        Kraken().read(text)
    assert caught.value.reason == "schema"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_those_of_stream_and_requests():
    venue = Kraken(venue="simulated")
    assert venue.symbol("simulated:BTC-USD") == "XBTUSD"
    assert venue.symbol("simulated:ETH-BTC") == "ETHXBT"
    assert venue.symbol("simulated:DOGE-EUR") == "XDGEUR"
    url, [message] = venue.stream("ws://127.0.0.1:1", ["simulated:BTC-USD", "simulated:DOGE-EUR"])
    assert url == "ws://127.0.0.1:1/v2"
    assert plain_json.loads(message) == {
        "method": "subscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USD", "DOGE/EUR"], "snapshot": False},
        "req_id": 1,
    }
    assert venue.read(frame({"symbol": "DOGE/EUR"}))[0].instrument == "simulated:DOGE-EUR"


@pytest.mark.parametrize(
    ("instrument", "words"),
    [
        ("kraken:BTCUSD", "write kraken:BTC-USD"),
        ("binance:BTC-USD", "is no instrument of kraken"),
        ("kraken:XBT-USD", "write kraken:BTC-USD"),
        ("kraken:-USD", "is no instrument"),
    ],
)
def test_other_names_say_how_to_write_them(instrument, words):
    with pytest.raises(UsageError, match=words):
        Kraken().symbol(instrument)
