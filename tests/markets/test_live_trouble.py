"""Whatever goes wrong with connections, frames or the exchange: a live feed says so, goes on, and loses nothing."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY, Trade
from markets.live import Live
from markets.venue import Address
from tests.markets.toy import QUICK, START, A, B, Exchange, Toy, ToyRest, hears, live, polled, until

pytestmark = pytest.mark.process


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_connection_that_ends_is_replaced_and_what_it_missed_is_filled(exchange, opened, end):
    feed = opened()
    wanted = []
    for _ in range(4):
        wanted += exchange.trade(A, 3)
        before = exchange.opened
        getattr(exchange, end)()
        wanted += exchange.make(A, 4)
        until(lambda before=before: exchange.opened > before and exchange.subscribed(), "another connection")
    assert polled(feed, len(wanted)) == wanted
    assert feed.health["reconnects"] >= 4


def test_a_half_open_connection_is_noticed(exchange, opened):
    feed = opened(silence_s=0.15)
    hears(feed, exchange.trade(A, 1))
    exchange.stall()
    made = exchange.trade(A, 2)
    until(exchange.subscribed, "another connection")
    hears(feed, made + exchange.trade(A, 1))


def test_before_its_lifetime_a_connection_is_replaced_by_one_that_is_open_already(exchange, opened):
    feed = opened(lifetime_s=0.25)
    open_at_once, wanted = 0, []
    while exchange.opened < 5:
        wanted += exchange.trade(A, 1)
        open_at_once = max(open_at_once, exchange.clients)
        assert exchange.clients >= 1
    assert polled(feed, len(wanted)) == wanted
    assert open_at_once == 2
    assert feed.health["repaired"] == 0 or feed.health["duplicates"]


def test_an_announced_end_is_answered_with_another_connection_at_once(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    exchange.say('{"closing": "maintenance"}')
    until(lambda: exchange.opened == 2, "another connection")
    wanted = exchange.trade(A, 2)
    until(lambda: exchange.clients == 1, "the end of the first")
    hears(feed, wanted + exchange.trade(A, 1))


def test_frames_that_cannot_be_read_are_handed_out_and_what_they_held_is_filled(exchange, opened, said):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    missed = exchange.make(A, 4)
    texts = ['{"trades": [["A-USD", "new format"]]}', "not even JSON", '{"deals": []}']
    exchange.say(*texts)
    assert polled(feed, 4) == missed
    until(lambda: feed.health["bad_frames"] == 3)
    refused = feed.refused()
    assert [one.frame.decode() for one in refused] == texts
    assert {one.error.reason for one in refused} == {"schema"}
    assert feed.refused() == []
    assert [line["frames"] for line in said if "cannot be read" in line["event"]] == [1, 2], "then 4, 8, 16"


def test_a_subscription_that_is_refused_is_the_user_s_mistake(exchange, opened):
    feed = opened()
    exchange.say('{"refused": "unknown symbol A-USD; close is B-USD"}')
    for _ in range(2):
        with pytest.raises(UsageError, match="unknown symbol A-USD"):
            until(lambda: feed.poll(10, 0.1))


def test_an_instrument_that_the_exchange_no_longer_knows_waits_and_the_others_go_on(exchange, opened, said):
    feed = opened()
    hears(feed, exchange.trade(A, 1) + exchange.trade(B, 1))
    exchange.say('{"refused": "unknown symbol A-USD"}')
    until(lambda: feed.health["problem"] == "unknown symbol A-USD")
    exchange.statuses.extend([400] * 1_000)
    missing = exchange.make(A, 1)
    exchange.trade(A, 1)
    until(lambda: "unknown symbol" in feed.health["waiting"].get(A, ""))
    others = exchange.trade(B, 3)
    assert polled(feed, 3) == others
    exchange.statuses.clear()
    assert polled(feed, 2)[:1] == missing


def test_an_exchange_that_counts_its_trades_anew_is_told(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 3))
    exchange._next[A] = 1
    later = exchange.make(A, 1)[0]
    exchange.send([Trade(A, START + NANOS_PER_DAY, later.trade_id, 1.0, 1.0, 1)])
    until(lambda: feed.health["waiting"] == {A: "it counts its trades anew, from 1; begin with another home"})
    hears(feed, exchange.trade(B, 3))


def test_a_rest_interface_that_hangs_is_told_long_before_patience_ends(exchange):
    class Hanging(ToyRest):
        async def get(self, path, params, weight):
            if "id" in params:
                await asyncio.sleep(60)
            return await super().get(path, params, weight)

    source = Live(Toy(exchange.address), lambda: Hanging(exchange.address), (A,), START, NANOS_PER_DAY, tempo=QUICK)
    feed = source.open({}, 1.0)
    until(exchange.subscribed)
    assert len(polled(feed, 1) if exchange.trade(A, 1) else []) == 1
    exchange.make(A, 1)
    exchange.trade(A, 1)
    until(lambda: feed.health["waiting"] == {A: "it has not answered yet"})
    feed.close()


def test_what_the_exchange_says_is_wrong_with_it_is_its_problem_until_it_says_otherwise(exchange, opened, said):
    feed = opened()
    exchange.say('{"notice": "in maintenance"}')
    until(lambda: feed.health["problem"] == "in maintenance")
    exchange.say('{"notice": ""}')
    until(lambda: not feed.health["problem"])
    assert [line["event"] for line in said if line["event"].startswith("the exchange says")] == [
        "the exchange says what is wrong with it", "the exchange says that all is well",
    ]  # fmt: skip


def test_that_all_is_well_with_the_exchange_does_not_excuse_a_refused_subscription(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    exchange.say('{"refused": "unknown symbol A-USD"}')
    until(lambda: feed.health["problem"] == "unknown symbol A-USD")
    exchange.say('{"notice": ""}', '{"deals": []}')
    until(lambda: feed.health["bad_frames"] == 1, "the frame after the notice")
    assert feed.health["problem"] == "unknown symbol A-USD"


def test_an_instrument_that_is_halted_while_the_feed_runs_is_told_until_it_is_traded_again(exchange, opened, said):
    feed = opened(tempo=replace(QUICK, quiet_s=0.2))
    hears(feed, exchange.trade(A, 1))
    exchange.halted.append(A)
    until(lambda: feed.health["waiting"] == {A: f"{A}: trading is halted"})
    hears(feed, exchange.trade(B, 1))
    asked = exchange.asked.count("/halted?")
    until(lambda: exchange.asked.count("/halted?") > asked + 4)
    assert [line["event"] for line in said].count("no trades") == 1
    exchange.halted.clear()
    hears(feed, exchange.trade(A, 1))
    assert feed.health["waiting"] == {}


def test_of_an_instrument_that_is_merely_quiet_nothing_is_said(exchange, opened):
    feed = opened(tempo=replace(QUICK, quiet_s=0.2))
    hears(feed, exchange.trade(A, 1))
    until(lambda: exchange.asked.count("/halted?") > 4)
    assert feed.health["waiting"] == {}


def test_connections_that_do_not_last_fill_no_log(exchange, said):
    tempo = replace(QUICK, backoff_s=0.02, backoff_most_s=0.02, settle_s=10.0, audit_s=10.0)
    source = Live(Toy(exchange.address), lambda: ToyRest(exchange.address), (A,), START, NANOS_PER_DAY, tempo=tempo)
    feed = source.open({}, 1.0)
    for count in range(20):
        until(lambda: feed.health["reconnects"] >= count and exchange.subscribed())  # noqa: B023 - it is awaited
        exchange.abort()
    until(lambda: feed.health["reconnects"] >= 20)
    feed.close()
    for event in ("connected", "connection lost; opening another"):
        assert 2 <= len([line for line in said if line["event"] == event]) < 15


def test_a_request_that_is_refused_is_the_user_s_mistake(exchange):
    exchange.statuses.append(400)
    feed = live(exchange).open({}, 1.0)
    with pytest.raises(UsageError, match="unknown symbol A-USD"):
        until(lambda: feed.poll(10, 0.1))
    feed.close()


def test_without_internet_a_feed_tries_on_and_says_so_once(said):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    nowhere = Address(f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}")
    source = Live(Toy(nowhere), lambda: ToyRest(nowhere), (A,), START, 7 * NANOS_PER_DAY, tempo=QUICK)
    feed = source.open({}, 1.0)
    until(lambda: "check the network" in feed.health["problem"])
    until(lambda: feed.health["waiting"])
    assert feed.poll(10, 0.3) == []
    assert len([line for line in said if line["event"].startswith("no connection")]) == 1
    exchange = Exchange(port)
    until(exchange.subscribed)
    hears(feed, exchange.trade(A, 2))
    assert feed.health["problem"] == ""
    feed.close()
    exchange.stop()


def test_where_a_proxy_refuses_websockets_rest_goes_on_alone(exchange, opened, said):
    exchange.refuses = 403
    feed = opened()
    hears(feed, exchange.make(A, 5))
    assert "HTTP 403: the exchange's firewall, or a proxy" in feed.health["problem"]
    assert not feed.health["connected"]
    hears(feed, exchange.make(A, 5))
    exchange.refuses = 0
    until(exchange.subscribed)
    hears(feed, exchange.trade(A, 5))
    assert len([line for line in said if line["event"].startswith("no connection")]) == 1
