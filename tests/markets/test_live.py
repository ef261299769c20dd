"""A live feed hands out each instrument's trades without a gap and each once, whatever the exchange and network do."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.contiguous import Contiguous
from markets.feed import LiveFeed
from markets.live import Live
from markets.outbox import Outbox
from markets.session import Session
from markets.source import Resume
from markets.tempo import Tempo
from tests.markets.toy import DEADLINE_S, QUICK, START, A, B, Toy, ToyRest, hears, ids, live, polled, until

pytestmark = pytest.mark.process


def test_trades_come_as_they_happen(exchange, opened):
    feed = opened()
    made = exchange.trade(A, 3) + exchange.trade(B, 2) + exchange.trade(A, 1)
    hears(feed, made)
    health = feed.health
    assert health["connected"]
    assert health["silent_s"] < DEADLINE_S
    assert health["newest"] == {A: made[-1].trade_id, B: made[4].trade_id}


@pytest.mark.parametrize("with_id", [True, False])
def test_a_feed_goes_on_where_its_reader_stopped(exchange, opened, with_id):
    made = exchange.make(A, 200)
    last = made[80]
    feed = opened({A: Resume(last.ts_event, last.trade_id if with_id else None)})
    newer = exchange.trade(A, 2)
    assert polled(feed, 121) == made[81:] + newer


def test_without_a_resume_a_feed_begins_at_the_opening(exchange, opened):
    made = exchange.make(A, 60)
    feed = opened(opens=made[20].ts_event)
    assert polled(feed, 40) == made[20:]


def test_an_instrument_without_any_trade_yet_begins_with_its_first(exchange, opened):
    feed = opened()
    until(lambda: len(exchange.asked) >= 6)  # REST has said several times that there is none
    made = exchange.trade(B, 1) + exchange.trade(B, 1)
    assert polled(feed, 2) == made


def test_a_gap_is_filled_before_anything_newer_is_published(exchange, opened):
    feed = opened()
    first = exchange.trade(A, 1)
    assert polled(feed, 1) == first
    missed, newer = exchange.make(A, 120), exchange.trade(A, 5)
    assert polled(feed, 125) == missed + newer
    assert feed.health["repaired"] >= 120


def test_a_gap_while_another_is_filled_is_filled_too(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    wanted = exchange.make(A, 500)  # ten pages
    for _ in range(20):
        wanted += exchange.trade(A, 3) + exchange.make(A, 7)
    wanted += exchange.trade(A, 1)
    assert polled(feed, len(wanted)) == wanted


def test_other_instruments_go_on_while_one_waits_and_it_skips_nothing(exchange, opened, said):
    feed = opened()
    hears(feed, exchange.trade(A, 1) + exchange.trade(B, 1))
    exchange.statuses.extend([503] * 10_000)
    missed, newer = exchange.make(A, 5), exchange.trade(A, 5)
    others = exchange.trade(B, 50)
    assert polled(feed, 50) == others
    until(lambda: A in feed.health["waiting"], "a waiting instrument")
    assert "HTTP 503" in feed.health["waiting"][A]
    assert feed.poll(100, 0.1) == []
    exchange.statuses.clear()
    assert polled(feed, 10) == missed + newer
    until(lambda: not feed.health["waiting"])
    assert len([line for line in said if line["event"].startswith("waiting for REST") and line["instrument"] == A]) == 1


def test_rest_that_answers_429_delays_a_repair_only(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    exchange.statuses.extend([429, 429, 418])
    missed, newer = exchange.make(A, 5), exchange.trade(A, 1)
    assert polled(feed, 6) == missed + newer


def test_what_comes_twice_or_late_is_dropped_and_counted(exchange, opened):
    feed = opened()
    made = exchange.trade(A, 10)
    exchange.send(made[3:])
    exchange.send(made[:2])
    last = exchange.trade(A, 1)
    assert polled(feed, 11) == made + last
    assert feed.health["duplicates"] >= 9  # more, where REST told some first


def test_what_comes_in_another_order_is_put_right_without_asking(exchange, opened):
    tempo = Tempo(grace_s=DEADLINE_S, settle_s=0.01, audit_s=10 * DEADLINE_S)
    feed = opened({A: Resume(START, 999)}, instruments=(A,), tempo=tempo)
    until(lambda: len(exchange.asked) == 2)  # at the start and once subscribed
    made = exchange.make(A, 30)
    exchange.send([*made[10:20], *made[:10][::-1], *made[20:][::-1]])
    assert polled(feed, 30) == made
    assert len(exchange.asked) == 2


def test_ids_that_rest_does_not_know_either_are_absent(exchange, opened, said):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    exchange.hidden = 3
    made = exchange.make(A, 2, absent=3) + exchange.make(A, 1, absent=1)
    exchange.send(made)
    assert feed.poll(10, 0.2) == []  # REST is behind: that proves nothing
    exchange.hidden = 0
    assert polled(feed, 3) == made
    assert feed.health["absent"] == 4
    assert sum(line.get("absent", 0) for line in said) == 4


def test_what_nothing_follows_is_found_although_the_stream_is_quiet(exchange, opened):
    feed = opened()
    hears(feed, exchange.trade(A, 1))
    hears(feed, exchange.make(A, 3))


def test_a_burst_of_20_000_trades_arrives_whole(exchange, opened):
    feed = opened()
    made = exchange.trade(A, 20_000, a_frame=4)
    assert polled(feed, 20_000, most=2_000) == made


def test_a_frame_may_hold_several_instruments_and_some_that_nobody_asked_for(exchange, opened):
    feed = opened()
    made = [exchange.make(A, 1), exchange.make(B, 1), exchange.make(A, 1)]
    exchange.say('{"trades": [["C-USD", 1, 1, 1.0, 1.0, 1]]}')
    exchange.send(made[0] + made[1] + made[2], a_frame=3)
    hears(feed, made[0] + made[1] + made[2])


def bounded(exchange, most):
    """A feed that keeps few trades for whoever polls."""
    orders, outbox = {A: Contiguous(Resume(START - 1))}, Outbox(most)
    venue = Toy(exchange.address)
    session = Session(venue, lambda: ToyRest(exchange.address), exchange.address, orders, outbox, QUICK)
    return LiveFeed(session, outbox, None)


def test_when_nobody_polls_little_is_kept_and_nothing_is_lost(exchange):
    feed = bounded(exchange, 500)
    until(exchange.subscribed)
    exchange.page = 2_000
    made = exchange.trade(A, 1)
    sending = threading.Thread(target=lambda: made.extend(exchange.trade(A, 60_000, a_frame=20, pad=10_000)))
    sending.start()
    until(lambda: feed.health["backlog"] >= 500)
    sending.join(0.5)
    assert sending.is_alive()  # the exchange cannot send on
    assert feed.health["backlog"] < 20_000
    exchange.abort()  # it loses patience with so slow a reader
    got = polled(feed, 60_001, most=2_000)
    sending.join()
    assert len(got) == len(made)
    assert got == made
    feed.close()


@pytest.mark.parametrize("state", ["busy", "half-open", "unpolled", "refused", "no REST", "stopped", "just opened"])
def test_close_ends_thread_and_connections_from_any_state(exchange, state):
    feed = bounded(exchange, 100)
    if state != "just opened":
        until(exchange.subscribed)
    if state == "busy":
        exchange.trade(A, 5_000)
        polled(feed, 5_000)
    elif state == "half-open":
        exchange.stall()
    elif state == "unpolled":
        exchange.trade(A, 3_000)
    elif state == "refused":
        exchange.refuses = 403
        exchange.abort()
        until(lambda: feed.health["problem"])
    elif state == "no REST":
        exchange.statuses.extend([503] * 100_000)
        until(lambda: feed.health["waiting"])
    elif state == "stopped":
        exchange.say('{"refused": "no"}')
        until(lambda: feed._outbox._error)
    feed.close()
    assert feed.done
    assert feed.poll(10, 0.0) == []
    assert not feed._thread.is_alive()
    assert feed._loop.is_closed()
    if state != "half-open":  # such an exchange does not notice
        until(lambda: not exchange.clients, "the end of all connections")


def test_history_is_candles_in_parts_of_one_utc_day(exchange):
    source = live(exchange)
    end = START + 3 * NANOS_PER_DAY
    assert (source.kind, source.interval, source.simulated) == ("trades", NANOS_PER_MINUTE, False)
    assert source.span(A) == (START - 7 * NANOS_PER_DAY, START)
    tables = list(source.history(A, START, end))
    assert all(len(np.unique((table.ts - 1) // NANOS_PER_DAY)) == 1 for table in tables)
    ts = np.concatenate([table.ts for table in tables])
    assert (int(ts[0]), int(ts[-1])) == (START + NANOS_PER_MINUTE, end)
    assert (np.diff(ts) == NANOS_PER_MINUTE).all()
    assert all(before.ts[-1] < after.ts[0] for before, after in pairwise(tables))


def test_history_that_is_left_early_lets_go_of_its_client(exchange):
    left = []

    class Rest(ToyRest):
        async def __aexit__(self, *_):
            left.append(self)

    source = Live(Toy(exchange.address), lambda: Rest(exchange.address), (A,), START, 7 * NANOS_PER_DAY)
    tables = source.history(A, START, START + 3 * NANOS_PER_DAY)
    next(tables)
    assert not left
    tables.close()
    assert len(left) == 1
    assert list(source.history(A, START, START)) == []


def test_history_that_is_refused_says_so(exchange):
    exchange.statuses.append(400)
    with pytest.raises(UsageError, match="unknown symbol"):
        list(live(exchange).history(A, START, START + NANOS_PER_DAY))


def test_ids_of_two_feeds_meet_without_gap_or_overlap(exchange, opened):
    first = opened()
    exchange.trade(A, 10)
    got = polled(first, 10)
    first.close()
    exchange.make(A, 10)
    second = opened({A: Resume(got[-1].ts_event, got[-1].trade_id)})
    exchange.trade(A, 10)
    got += polled(second, 20)
    assert ids(got) == list(range(1_000, 1_030))
