"""Through ccxt an exchange in a box is read whole: history meets stream, every trade comes once and in order."""

from __future__ import annotations

import importlib.util
import sys
import time
from functools import partial

import numpy as np
import pytest

from domain.errors import Unavailable, UsageError
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.ccxt import CcxtMarket
from markets.ccxt_client import KEPT
from markets.source import Resume
from markets.tempo import Tempo
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.boxed_ccxt import EXCHANGES, boxed

TEMPO = Tempo(grace_s=0.02, audit_s=1.0, audit_each_s=0.0, retry_s=0.05, retry_most_s=0.3, patience_s=1.0,
              backoff_s=0.05, backoff_most_s=0.3)  # fmt: skip
HOUR = 60 * NANOS_PER_MINUTE

both = pytest.mark.parametrize("exchange", EXCHANGES)
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(importlib.util.find_spec("ccxt") is None, reason="ccxt is not installed"),
]


def source_of(exchange, box, *instruments, kept=KEPT, **options):
    instruments = instruments or (BTC, ETH)
    make = partial(boxed, exchange, box, kept, **options)
    return CcxtMarket(exchange, instruments, OPENS, NANOS_PER_DAY, make=make, patience_s=1.0, tempo=TEMPO)


def happened(market, name, last):
    """What a market holds of an instrument, from the opening up to an id."""
    for table in market.history(name, OPENS, OPENS + NANOS_PER_DAY):
        columns = (table.ts, table.trade_id, table.price, table.size, table.side)
        yield from (row for row in zip(*(c.tolist() for c in columns), strict=True) if row[1] <= last)


def is_whole(market, got):
    """All that has happened since the opening was handed out, once and in order."""
    for name in {trade.instrument for trade in got}:
        rows = [(t.ts_event, t.trade_id, t.price, t.size, t.side) for t in got if t.instrument == name]
        assert rows == list(happened(market, name, rows[-1][1]))


def polled(feed, condition, seconds=20.0):
    got, deadline = [], time.monotonic() + seconds
    while not condition(got):
        assert time.monotonic() < deadline, f"it never came to be: {feed.health}"
        got += feed.poll(2_000, 0.05)
    return got


def newest(got, name):
    return max((trade.ts_event for trade in got if trade.instrument == name), default=0)


@both
def test_history_ends_where_the_stream_begins(market, exchange):
    with box_of(market, speed=300.0, opens=OPENS) as box:
        source = source_of(exchange, box)
        assert source.now() >= OPENS
        tables = list(source.history(BTC, OPENS - 3 * HOUR, OPENS))
        feed = source.open({}, 1.0)
        got = polled(feed, lambda got: min(newest(got, BTC), newest(got, ETH)) > OPENS + NANOS_PER_MINUTE)
        feed.close()
    ts = np.concatenate([table.ts for table in tables])
    assert ts.tolist() == list(range(OPENS - 3 * HOUR + NANOS_PER_MINUTE, OPENS + 1, NANOS_PER_MINUTE))
    *_, last = market.history(BTC, OPENS - NANOS_PER_MINUTE, OPENS)
    open_, high, low, close = tables[-1].values[-1, :4]
    assert (open_, high, low, close) == (last.price[0], last.price.max(), last.price.min(), last.price[-1])
    is_whole(market, got)


@both
def test_every_trade_comes_once_and_in_order_whatever_ccxt_leaves_out(market, exchange):
    with box_of(market, speed=300.0, opens=OPENS) as box:
        feed = source_of(exchange, box, kept=40).open({}, 1.0)
        got = polled(feed, lambda got: len(got) > 300)
        for kind in ("close", "drop", "503", "duplicate", "reorder", "mixed", "schema", "vanish"):
            box.fault(kind)
            seen = max(newest(got, BTC), newest(got, ETH)) + 2 * NANOS_PER_MINUTE
            got += polled(feed, lambda more, seen=seen: min(newest(more, BTC), newest(more, ETH)) > seen)
        box.fault("burst", 500)  # more at once than ccxt keeps
        seen = max(newest(got, BTC), newest(got, ETH)) + HOUR // 10
        got += polled(feed, lambda more: min(newest(more, BTC), newest(more, ETH)) > seen)
        health = feed.health
        feed.close()
    is_whole(market, got)
    assert health["connected"]
    assert health["reconnects"] >= 2
    assert health["repaired"] > 0
    assert (health["absent"], health["waiting"], health["backlog"]) == (0, {}, 0)
    assert health["newest"] == {name: [t.trade_id for t in got if t.instrument == name][-1] for name in (BTC, ETH)}


def test_a_feed_goes_on_where_its_reader_stopped(market):
    with box_of(market, speed=300.0, opens=OPENS) as box:
        source = source_of("kraken", box)
        first = source.open({}, 1.0)
        got = polled(first, lambda got: min(newest(got, BTC), newest(got, ETH)) > OPENS)
        first.close()
        assert first.done
        last = {trade.instrument: Resume(trade.ts_event, trade.trade_id) for trade in got}
        time.sleep(0.2)  # a minute of the market's
        second = source.open(last, 1.0)
        got += polled(second, lambda more: min(newest(more, BTC), newest(more, ETH)) > OPENS + 5 * NANOS_PER_MINUTE)
        second.close()
    is_whole(market, got)


def test_two_numberings_of_the_same_trades_are_refused(market):
    with box_of(market, speed=300.0, opens=OPENS) as box:
        feed = source_of("binance", box, one_numbering=False).open({}, 1.0)
        with pytest.raises(UsageError, match="binance numbers its trades in its stream and on request differently"):
            polled(feed, lambda _: False)
        feed.close()


def test_what_an_exchange_does_not_trade_or_tell_is_one_line(box):
    with pytest.raises(UsageError, match=r"BTC-UDS is not traded on kraken; did you mean kraken:BTC-USD\?"):
        source_of("kraken", box, "kraken:BTC-UDS").now()
    feed = source_of("kraken", box, "kraken:BTC-UDS").open({}, 1.0)
    with pytest.raises(UsageError, match="is not traded on kraken"):
        polled(feed, lambda _: False)
    feed.close()
    with pytest.raises(Unavailable, match=r"from .*, but the exchange tells none before .*; choose later days"):
        list(source_of("kraken", box).history(BTC, OPENS - NANOS_PER_DAY, OPENS - HOUR))
    source = source_of("kraken", box)
    source.interval = 7 * NANOS_PER_MINUTE
    with pytest.raises(UsageError, match="kraken has no candles of 420 s; use one of 1m, 5m"):
        list(source.history(BTC, OPENS - HOUR, OPENS))


def test_an_exchange_that_is_unknown_or_a_library_that_is_missing_is_one_line(monkeypatch):
    with pytest.raises(UsageError, match=r"an exchange 'krakn'; did you mean ccxt:kraken"):
        CcxtMarket("krakn", (BTC,), OPENS, NANOS_PER_DAY)
    with pytest.raises(UsageError, match=r"see https://docs\.ccxt\.com for their names"):
        CcxtMarket("qqqqqqqqqqq", (BTC,), OPENS, NANOS_PER_DAY)
    monkeypatch.setitem(sys.modules, "ccxt", None)
    monkeypatch.setattr("markets.ccxt_client.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs the package ccxt; run \.venv/bin/python -m pip install 'ccxt>="):
        CcxtMarket("okx", (BTC,), OPENS, NANOS_PER_DAY)


def test_an_exchange_that_cannot_be_reached_is_one_line(market):
    with box_of(market, speed=0) as box:
        source = source_of("kraken", box)
    with pytest.raises(Unavailable, match=r"^kraken cannot be reached; check the network"):
        source.now()
