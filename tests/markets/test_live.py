"""A live feed hands out each instrument's trades without a gap and each once, whatever the exchange and network do."""

from __future__ import annotations

import pytest

from tests.markets.toy import A, B, Exchange, live, polled, until


@pytest.fixture
def exchange():
    exchange = Exchange()
    yield exchange
    exchange.stop()


@pytest.fixture
def opened(exchange):
    """Open a feed that is closed at the end, and wait until it is subscribed."""
    feeds = []

    def open_(resume=None, **options):
        feed = live(exchange, **options).open(resume or {}, 1.0)
        feeds.append(feed)
        until(exchange.subscribed, "a subscription")
        return feed

    yield open_
    for feed in feeds:
        feed.close()


def test_trades_come_as_they_happen(exchange, opened):
    feed = opened()
    made = exchange.trade(A, 3) + exchange.trade(B, 2) + exchange.trade(A, 1)
    got = polled(feed, 6)
    for name in (A, B):
        assert [t for t in got if t.instrument == name] == [t for t in made if t.instrument == name]


def test_a_gap_is_filled_before_anything_newer_is_published(exchange, opened):
    feed = opened()
    first = exchange.trade(A, 1)
    assert polled(feed, 1) == first
    missed, newer = exchange.make(A, 120), exchange.trade(A, 5)
    assert polled(feed, 125) == missed + newer
    assert feed.health["repaired"] >= 120
