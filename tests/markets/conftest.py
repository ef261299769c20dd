"""A made-up market in a box that stands at its opening, and an archive; both are real servers on loopback."""

from __future__ import annotations

import pytest
import structlog

from markets.simulated import Simulated
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.servers import serving
from tests.markets.toy import Exchange, live, until
from tests.markets.vault import Archive


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC, ETH], OPENS, 2)


@pytest.fixture(scope="module")
def box(market):
    """Return a box at the opening, where it stays, for nobody listens to its streams."""
    with box_of(market, speed=0) as box:
        yield box


@pytest.fixture(scope="module")
def server():
    with serving(Archive()) as running:
        yield running


@pytest.fixture
def archive(server):
    """Return an archive that holds nothing yet, behind the server."""
    server.answer, server.script = Archive(), []
    server.asked.clear()
    return server.answer


@pytest.fixture
def said():
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


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
        if not exchange.refuses:
            until(exchange.subscribed, "a subscription")
        return feed

    yield open_
    for feed in feeds:
        feed.close()
