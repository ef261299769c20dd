"""Whatever an exchange and a network do, what a live feed hands out is what it had handed out without any fault."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from markets.source import Resume
from tests.markets.toy import A, B, Exchange, live, polled, until

pytestmark = pytest.mark.process

INSTRUMENT = st.sampled_from([A, B])
SOME = st.integers(1, 12)

# What happens, one thing after the other: each a name and its arguments.
MISHAPS = st.lists(
    st.one_of(
        st.tuples(st.just("shown"), INSTRUMENT, SOME),
        st.tuples(st.just("dropped"), INSTRUMENT, SOME),
        st.tuples(st.just("twice"), INSTRUMENT, SOME),
        st.tuples(st.just("shuffled"), INSTRUMENT, SOME, st.integers(0, 99)),
        st.tuples(st.just("late"), INSTRUMENT, SOME),
        st.tuples(st.just("absent"), INSTRUMENT, SOME),
        st.tuples(st.just("mixed"), SOME),
        st.tuples(st.just("hidden"), st.integers(0, 5)),
        st.tuples(st.just("status"), st.sampled_from([429, 418, 500, 503]), SOME),
        st.tuples(st.just("refuses"), st.sampled_from([0, 403, 503])),
        st.tuples(st.just("close"), st.sampled_from([1000, 1001, 1012])),
        st.tuples(st.just("abort")),
        st.tuples(st.just("stall")),
        st.tuples(st.just("say"), st.sampled_from(['{"closing": "soon"}', "{", '{"trades": [["A-USD", 1]]}'])),
        st.tuples(st.just("heard")),
        st.tuples(st.just("polled"), SOME),
        st.tuples(st.just("restarted")),
    ),
    max_size=25,
)


class Play:
    """One exchange, one reader, and what happens between them."""

    def __init__(self, exchange, lifetime_s):
        self.exchange, self.lifetime_s = exchange, lifetime_s
        exchange.page = 7
        self.got = []
        self.feed = self._open()

    def _open(self):
        resume = {t.instrument: Resume(t.ts_event, t.trade_id) for t in self.got}
        return live(self.exchange, lifetime_s=self.lifetime_s, silence_s=0.15).open(resume, 1.0)

    def shown(self, name, n):
        self.exchange.trade(name, n, a_frame=3)

    def dropped(self, name, n):
        self.exchange.make(name, n)

    def twice(self, name, n):
        self.exchange.send(self.exchange.trade(name, n))

    def shuffled(self, name, n, seed):
        made = self.exchange.make(name, n)
        random.Random(seed).shuffle(made)
        self.exchange.send(made)

    def late(self, name, n):
        self.exchange.send(self.exchange.made[name][-n:])

    def absent(self, name, n):
        self.exchange.send(self.exchange.make(name, 2, absent=n))

    def mixed(self, n):
        both = zip(self.exchange.make(A, n), self.exchange.make(B, n), strict=True)
        self.exchange.send([trade for pair in both for trade in pair], a_frame=5)

    def hidden(self, n):
        self.exchange.hidden = n

    def status(self, code, n):
        self.exchange.statuses.extend([code] * n)

    def refuses(self, status):
        self.exchange.refuses = status

    def close(self, code):
        self.exchange.close(code)

    def abort(self):
        self.exchange.abort()

    def stall(self):
        self.exchange.stall()

    def say(self, text):
        self.exchange.say(text)

    def heard(self):
        """Let the reader hear what is shown from here on."""
        if not self.exchange.refuses:
            until(self.exchange.subscribed)

    def polled(self, n):
        self.got += self.feed.poll(n, 0.02)

    def restarted(self):
        """The reader starts again from what it kept."""
        self.feed.close()
        self.feed = self._open()

    def end(self):
        """Let everything heal, and take the rest."""
        self.exchange.hidden = self.exchange.refuses = 0
        self.exchange.statuses.clear()
        self.got += polled(self.feed, sum(map(len, self.exchange.made.values())) - len(self.got))
        self.got += self.feed.poll(100, 0.0)
        self.feed.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mishaps=MISHAPS, lifetime_s=st.sampled_from([float("inf"), 0.1]))
def test_the_exact_sequence_is_handed_out_whatever_happens(mishaps, lifetime_s):
    exchange = Exchange()
    try:
        play = Play(exchange, lifetime_s)
        play.heard()
        for name, *arguments in mishaps:
            getattr(play, name)(*arguments)
        play.end()
        for name in (A, B):
            assert [t for t in play.got if t.instrument == name] == exchange.made[name]
    finally:
        play.feed.close()
        exchange.stop()
