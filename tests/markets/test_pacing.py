"""Event time keeps step with an injected clock, and nobody spins."""

from __future__ import annotations

import pytest

from markets.pacing import Clock
from markets.recorded import Recorded
from markets.simulated import Simulated
from markets.source import Resume
from tests.markets.samples import START, drained, trades, write

SECOND = 1_000_000_000


class Wall:
    """A clock that only moves when somebody waits on it, and notes how long each wait was."""

    def __init__(self, lag=0.0):
        self.now = 1_000.0
        self.waits = []
        self.lag = lag

    def clock(self):
        return Clock(lambda: self.now, self.wait)

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds + self.lag


@pytest.fixture
def wall():
    return Wall()


def feed_of(tmp_path, wall, speed, n=10, step=60 * SECOND, **resume):
    path = write(tmp_path / "t.parquet", trades(n, step=step))
    return Recorded([path], clock=wall.clock()).open({f"recorded:{k}": v for k, v in resume.items()}, speed)


def test_the_first_event_is_due_at_once_and_the_next_in_its_time(tmp_path, wall):
    feed = feed_of(tmp_path, wall, 60)
    assert [event.trade_id for event in feed.poll(10, 5.0)] == [1]
    assert wall.waits == []
    assert [event.trade_id for event in feed.poll(10, 5.0)] == [2]
    assert wall.waits == [pytest.approx(1.0)]


def test_a_poll_waits_no_longer_than_its_timeout_and_then_returns_nothing(tmp_path, wall):
    feed = feed_of(tmp_path, wall, 60)
    feed.poll(10, 0)
    assert feed.poll(10, 0.25) == []
    assert feed.poll(10, 0) == []
    assert wall.waits == [0.25]


def test_what_fell_due_meanwhile_is_returned_up_to_the_limit_without_waiting(tmp_path, wall):
    feed = feed_of(tmp_path, wall, 60)
    feed.poll(1, 0)
    wall.now += 5.5
    assert [event.trade_id for event in feed.poll(3, 1.0)] == [2, 3, 4]
    assert [event.trade_id for event in feed.poll(9, 1.0)] == [5, 6]
    assert wall.waits == []


def test_the_pace_is_anchored_at_the_first_event_after_a_resume(tmp_path, wall):
    feed = feed_of(tmp_path, wall, 60, **{"BTC-USD": Resume(START + 3 * 60 * SECOND)})
    assert [event.trade_id for event in feed.poll(10, 0)] == [5]
    assert [event.trade_id for event in feed.poll(10, 9)] == [6]
    assert wall.waits == [pytest.approx(1.0)]


def test_speed_zero_never_waits_while_there_is_data(tmp_path, wall):
    assert len(drained(feed_of(tmp_path, wall, 0), 3)) == 10
    assert wall.waits == []


@pytest.mark.parametrize("speed", [1, 60, 2_500.5])
def test_a_paced_feed_takes_the_time_of_its_events_and_waits_once_a_poll(tmp_path, speed):
    wall = Wall(lag=1e-6)
    feed, polls, began = feed_of(tmp_path, wall, speed, n=50), 0, wall.now
    while not feed.done:
        feed.poll(10, 1e9)
        polls += 1
    assert wall.now - began == pytest.approx(49 * 60 / speed, rel=1e-3)
    assert len(wall.waits) == polls - 1 == 49


def test_a_feed_that_is_done_still_waits_so_that_its_reader_does_not_spin(tmp_path, wall):
    feed = feed_of(tmp_path, wall, 0)
    assert len(feed.poll(100, 1.0)) == 10
    assert feed.done
    assert feed.poll(100, 0.5) == []
    assert wall.waits == [0.5]


def test_a_wait_that_ends_early_is_not_repeated(tmp_path):
    """A service's stop event returns at once when it is set: the poll must come back, not try again."""
    calls = []
    path = write(tmp_path / "t.parquet", trades(3, step=60 * SECOND))
    feed = Recorded([path], clock=Clock(lambda: 5.0, calls.append)).open({}, 1)
    feed.poll(10, 0)
    assert feed.poll(10, 30.0) == []
    assert calls == [30.0]


def test_the_simulated_market_keeps_the_same_pace(wall):
    opens = 20_000 * 86_400 * SECOND
    feed = Simulated(7, ["simulated:BTC-USD"], opens, 1, wall.clock()).open({}, 60)
    events = []
    while wall.now < 1_060.0:
        events += feed.poll(500, 0.5)
    assert events[-1].ts_event - events[0].ts_event == pytest.approx(3_600 * SECOND, rel=0.01)
    assert not feed.done
