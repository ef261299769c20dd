"""What ccxt leaves out, mixes up or cannot tell: asked for, put right, counted or refused, never handed out twice."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import deque
from contextlib import asynccontextmanager

import pytest
import structlog

from domain.errors import Unavailable, UsageError
from markets.ascending import Ascending
from markets.ccxt_client import errors_of
from markets.ccxt_session import CcxtSession
from markets.feed import LiveFeed
from markets.outbox import Outbox
from markets.source import Resume
from tests.markets.toy import DEADLINE_S, QUICK, START, A, B, ids, polled, until

MS = 1_000_000
KEPT = 5


class Toy:
    """A client as ccxt makes them; what it streams and what it knows on request are said apart."""

    id = "toy"

    def __init__(self):
        self.options, self.clients = {"tradesLimit": KEPT}, {}
        self.has = dict.fromkeys(("watchTrades", "fetchTrades", "fetchOHLCV"), True)
        plain = {"spot": True, "active": True, "info": {}}
        self.markets = {f"{base}/USD": {"symbol": f"{base}/USD", "id": f"{base}USD", **plain} for base in "AB"}
        self.made = {"A/USD": [], "B/USD": []}
        self.said = {"A/USD": deque(), "B/USD": deque()}
        self.asked = self.opened = 0
        self.page, self.deaf = 100, False

    @asynccontextmanager
    async def make(self):
        self.opened += 1
        yield self

    async def load_markets(self):
        pass

    async def watch_trades(self, symbol):
        while self.deaf or not self.said[symbol]:  # noqa: ASYNC110 - it is said from another thread
            await asyncio.sleep(0.002)
        said = self.said[symbol].popleft()
        if isinstance(said, Exception):
            raise said
        return said

    async def fetch_trades(self, symbol, since=None):
        self.asked += 1
        return [row for row in self.made[symbol] if row["timestamp"] >= since][: self.page]

    def milliseconds(self):
        return START // MS


def row(number, base="A", **other):
    ts = START // MS + int(number)
    plain = {"id": str(number), "timestamp": ts, "price": 1.0 + int(number) % 7, "amount": 1.0, "side": "buy"}
    return plain | {"info": {"s": f"{base}USD"}} | other


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def opened(toy):
    """Open a feed that is closed at the end."""
    feeds = []

    def open_(after=None):
        orders = {name: Ascending(Resume(START - 1, after)) for name in (A, B)}
        outbox = Outbox()
        feeds.append(LiveFeed(CcxtSession("toy", toy.make, orders, outbox, QUICK), outbox, None))
        return feeds[-1]

    yield open_
    for feed in feeds:
        feed.close()


def told(toy, *numbers, base="A"):
    rows = [row(number, base) for number in numbers]
    toy.made[f"{base}/USD"] += rows
    return rows


@pytest.mark.process
def test_an_answer_as_long_as_ccxt_keeps_is_a_hole(toy, opened):
    feed = opened()
    for number in range(10, 60, 10):  # not by one: from now on no id tells of a hole
        toy.said["A/USD"].append(told(toy, number))
        polled(feed, 1)
    lost, kept = told(toy, 70, 90), told(toy, *range(200, 300, 20))
    assert len(kept) == KEPT
    toy.said["A/USD"].append(kept)
    assert ids(polled(feed, 7)) == [int(one["id"]) for one in lost + kept]
    unseen, fewer = told(toy, 310), told(toy, 320, 330)
    toy.said["A/USD"].append(fewer)
    assert ids(polled(feed, 2)) == [320, 330], "which nobody could know"
    assert unseen
    assert feed.health["absent"] == 0


def test_ids_that_skip_are_no_holes_where_they_always_do(toy, opened):
    feed = opened()
    for number in range(10, 2_010, 10):
        toy.said["A/USD"].append(told(toy, number))
    assert ids(polled(feed, 200)) == list(range(10, 2_010, 10))
    assert toy.asked < 40
    assert feed.health["absent"] == 0


def test_ids_that_do_not_exist_are_passed_over_and_counted(toy, opened):
    feed = opened(after=9)
    toy.said["A/USD"].append(told(toy, 10, 11, 14))
    toy.said["A/USD"].append(told(toy, 15))
    assert ids(polled(feed, 4)) == [10, 11, 14, 15]
    assert feed.health["absent"] == 2
    assert feed.health["newest"][A] == 15


def test_a_trade_is_of_the_market_that_the_exchange_names(toy, opened):
    feed = opened()
    mixed = [row(10), row(500, "B"), row(11), row(501, "B")]
    toy.made["A/USD"] = mixed[::2]
    toy.said["A/USD"].append(mixed)
    got = polled(feed, 4)
    assert (ids(got), ids(got, B)) == ([10, 11], [500, 501])


@pytest.mark.process
def test_after_every_resubscription_what_was_missed_comes_first_and_a_reason_is_said_once(toy, opened):
    error = importlib.import_module("ccxt").NetworkError
    with structlog.testing.capture_logs() as lines:
        feed = opened()
        toy.said["A/USD"].append(told(toy, 2, 4, 6, 8, 10, 30)[-KEPT + 1 :])  # no id tells of a hole from now on
        assert ids(polled(feed, 6)) == [2, 4, 6, 8, 10, 30]
        toy.said["A/USD"].extend([error("closed"), error("closed"), error("closed")])
        until(lambda: feed.health["reconnects"] == 3)
        assert feed.health["problem"] == "toy cannot be reached; check the network (closed)"
        told(toy, 50, 70)
        toy.said["A/USD"].append(told(toy, 90))
        assert ids(polled(feed, 3)) == [50, 70, 90]
        assert feed.health["problem"] == ""
    assert len([line for line in lines if line["event"].startswith("no connection")]) == 1


def test_a_stream_that_shows_nothing_is_told_by_requests_and_opened_anew(toy, opened):
    feed = opened()
    toy.said["A/USD"].append(told(toy, 10))
    polled(feed, 1)
    toy.deaf, number, got, deadline = True, 10, [], time.monotonic() + DEADLINE_S
    while toy.opened == 1:
        assert time.monotonic() < deadline, feed.health
        number += 1
        told(toy, number)
        got += feed.poll(10, 0.05)
    toy.deaf = False
    got += polled(feed, number - 10 - len(got))
    assert ids(got) == list(range(11, number + 1))


@pytest.mark.parametrize("number", [None, "a1b2", "1.5", "-3", str(2**63), "٣"])
def test_an_exchange_that_does_not_number_its_trades_is_refused(toy, opened, number):
    feed = opened()
    toy.said["A/USD"].append([row(1, id=number)])
    with pytest.raises(UsageError, match=r"toy does not number its trades .* such as ccxt:coinbase or ccxt:bitstamp"):
        polled(feed, 1)


def test_a_trade_that_cannot_be_read_is_kept_for_the_dead_letters(toy, opened):
    feed = opened()
    bad = [row(10, price=None), row(11, amount=-1.0), row(12, timestamp="soon"), row(14, id=None)]
    toy.said["A/USD"].append(told(toy, 9))
    toy.said["A/USD"].append([*bad, *told(toy, 15)])
    assert ids(polled(feed, 2)) == [9, 15]
    refused = feed.refused()
    assert [one.error.reason for one in refused] == ["schema"] * 4
    assert b'"id":"10"' in refused[0].frame
    assert feed.health["bad_frames"] == 4


@pytest.mark.process
def test_while_requests_fail_an_instrument_waits_and_says_why(toy, opened):
    error = importlib.import_module("ccxt").OnMaintenance
    answer = toy.fetch_trades

    async def shut(symbol, since=None):
        raise error("down")

    toy.fetch_trades = shut
    feed = opened(after=9)
    toy.said["A/USD"].append(told(toy, 12))
    until(lambda: "maintenance" in feed.health["waiting"].get(A, ""))
    told(toy, 13)
    toy.made["A/USD"].insert(0, row(11))
    assert feed.poll(10, 0.0) == []
    toy.fetch_trades = answer
    assert ids(polled(feed, 3)) == [11, 12, 13]
    until(lambda: not feed.health["waiting"])


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("BadSymbol", UsageError, "correct the instruments"),
        ("PermissionDenied", UsageError, "API key"),
        ("RestrictedLocation", UsageError, "serves nobody at this address"),
        ("NotSupported", UsageError, "does not offer this"),
        ("BadRequest", UsageError, "refuses the request"),
        ("RateLimitExceeded", Unavailable, "limits this address"),
        ("DDoSProtection", Unavailable, "limits this address"),
        ("OnMaintenance", Unavailable, "in maintenance"),
        ("RequestTimeout", Unavailable, "check the network"),
        ("BadResponse", Unavailable, "answers with an error"),
    ],
)
def test_an_error_of_ccxt_s_is_one_line_of_ours(name, kind, says):
    error = getattr(importlib.import_module("ccxt"), name)
    with pytest.raises(kind, match=rf"^okx .*{says}.*\(okx said\s.*so\)$") as caught, errors_of("okx"):
        raise error("okx said\n  so")
    assert "\n" not in str(caught.value)


def test_what_ccxt_lets_by_of_its_connections_is_ours_too_and_nothing_else():
    with pytest.raises(Unavailable, match=r"okx cannot be reached; check the network \(closing\)"), errors_of("okx"):
        raise ConnectionResetError("closing")
    with pytest.raises(KeyError), errors_of("okx"):
        raise KeyError("a defect")
