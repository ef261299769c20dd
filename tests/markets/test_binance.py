"""Binance's frames and names."""

from __future__ import annotations

import json as plain_json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import zstandard
from hypothesis import given

from domain.errors import BadRecord, UsageError
from domain.events import BUY, SELL, Trade
from markets.binance import Binance
from markets.binance_wire import MS
from markets.recorded import Recorded
from markets.venue import Closing
from tests.markets.samples import decimals, drained

FRAMES = "frames_binance_spot_trade.jsonl.zst"
BTC = "binance:BTC-USDT"

FRAME = {"e": "trade", "E": 1_723_161_255_343, "s": "BTCUSDT", "t": 3_735_683_259, "p": "61837.63000000",
         "q": "0.02000000", "T": 1_723_161_255_342, "m": True, "M": True}  # fmt: skip


def frame(stream="btcusdt@trade", **changes) -> bytes:
    """A frame of a trade with some fields changed; None leaves one out."""
    data = {name: value for name, value in (FRAME | changes).items() if value is not None}
    return plain_json.dumps({"stream": stream, "data": data}).encode()


@pytest.mark.slow
def test_recorded_frames_read_live_are_what_the_recording_reads(shelf):
    venue = Binance(venue="recorded")
    lines = zstandard.decompress(shelf(FRAMES).read_bytes(), 100_000_000).splitlines()
    live = [trade for line in lines for trade in venue.read(line.partition(b" ")[2])]
    recorded = drained(Recorded([shelf(FRAMES)], instruments=["recorded:BTC-USDT", "recorded:ETH-USDT"]).open({}, 0))
    assert len(live) == 34_419
    key = lambda trade: (trade.instrument, trade.trade_id)  # noqa: E731
    assert sorted(live, key=key) == sorted(recorded, key=key)


def test_a_trade_has_the_exchanges_time_and_the_takers_side():
    assert Binance().read(frame()) == [Trade(BTC, FRAME["T"] * MS, FRAME["t"], 61_837.63, 0.02, SELL)]
    assert Binance().read(frame(m=False).decode())[0].side == BUY


@given(price=decimals(10**6), size=decimals(10**7))
def test_a_decimal_becomes_the_nearest_double_and_keeps_its_units(price, size):
    """So that sums of sizes in units of 1e-8 are those of the exchange."""
    [trade] = Binance().read(frame(p=price, q=size))
    for text, value in ((price, trade.price), (size, trade.size)):
        exact = Fraction(text)
        assert abs(Fraction(value) - exact) <= min(
            abs(Fraction(float(np.nextafter(value, other))) - exact) for other in (0.0, np.inf)
        )
    assert int(np.rint(trade.size * 1e8)) == Decimal(size) * 10**8


@pytest.mark.parametrize(
    "text",
    [
        '{"result":null,"id":1}',
        '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,"s":"BTCUSDT","a":1,"p":"1","q":"1","T":1,"m":true}}',
        '{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker"}]}',
        '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"1","A":"1"}}',
        frame(X="INSURANCE_FUND"),
        frame(X="NA", p="0", q="0"),
    ],
)
def test_what_is_no_market_trade_is_left_out(text):
    assert Binance().read(text) == []


@pytest.mark.parametrize(
    "text",
    ['{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}', '{"e":"serverShutdown","E":1}'],
)
def test_a_shutdown_is_announced(text):
    with pytest.raises(Closing, match="binance shuts"):
        Binance().read(text)


def test_an_error_over_the_stream_is_said_in_the_exchanges_words():
    with pytest.raises(UsageError, match="Invalid request"):
        Binance().read('{"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":null}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((frame(**{name: None}), f"`{name}`") for name in "estpqTm"),
        *((frame(**{name: [1]}), f"`$.data.{name}`") for name in "estpqTm"),
        (frame(p="1,5"), "1,5"),
        (frame(q="nan"), "q nan"),
        (frame(p="0.0"), "p 0.0"),
        (frame(T=FRAME["T"] * 1_000), f"T {FRAME['T'] * 1_000}"),
        (frame(e="trade2"), "`$.data.e`"),
        (b'{"stream":"btcusdt@trade","payload":{}}', "`data`"),
        (b"<html>", "malformed"),
        (b"", "truncated"),
    ],
)
def test_a_changed_format_names_the_field(text, words):
    with pytest.raises(BadRecord) as caught:
        Binance().read(text)
    assert caught.value.reason == "schema"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_instruments_and_symbols_are_each_others():
    venue = Binance(venue="simulated")
    assert venue.symbol("simulated:BTC-USDT") == "BTCUSDT"
    venue.symbol("simulated:BTC-PLN")  # a quote that is not known by itself
    assert venue.read(frame(s="BTCPLN"))[0].instrument == "simulated:BTC-PLN"
    assert venue.read(frame(s="ETHBTC"))[0].instrument == "simulated:ETH-BTC"
    for name in ("binance:BTC-USDT", "BTC-USDT", "simulated:"):
        with pytest.raises(UsageError, match=r"write simulated:BTC-USDT"):
            venue.symbol(name)


def test_streams_are_named_in_the_url():
    url, messages = Binance().stream("ws://127.0.0.1:1", [BTC, "binance:ETH-USDT"])
    assert url == "ws://127.0.0.1:1/stream?streams=btcusdt@trade/ethusdt@trade"
    assert messages == ()
    with pytest.raises(UsageError, match="1024"):
        Binance().stream("ws://x", [f"binance:A{k}-USDT" for k in range(1_025)])
