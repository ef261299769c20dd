"""The loop: what a service did survives a signal, a finished source ends it, and the heartbeat follows the loop."""

import os
import signal
import threading
import time

import pytest

from domain.config import Model, Places, Project
from domain.errors import BadState
from streaming.app import Context, Pulse, _Heart, run
from streaming.kafka import Kafka
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats


class Counting:
    """A stage that counts what it did and when it was saved."""

    name = "trainer"

    def __init__(self, until=None, fail=False):
        self.done, self.saved, self.closed, self.until, self.fail = 0, 0, None, until, fail

    def open(self):
        pass

    def work(self, wait_s):
        time.sleep(0.01)
        if self.fail:
            raise BadState("the floor is gone; leave")
        self.done += 1
        return 1

    def save(self):
        self.saved = self.done

    def pulse(self):
        return Pulse(position={"t/0": self.done}, progress=self.done, lag=7, ready=True)

    def close(self, *, clean):
        self.closed = "clean" if clean else "torn"

    @property
    def finished(self):
        return self.until is not None and self.done >= self.until


@pytest.fixture
def context(tmp_path):
    places = Places(home=tmp_path)
    fleet = (Model(name="m", kind="rls", targets=("price_change", "direction", "volatility")),)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with Control.open(places.control) as control:
        yield Context(
            Project(instruments=("simulated:A",), fleet=fleet), places, control, Kafka(places), checkpoint_s=0.05
        )
    for number, handler in handlers.items():
        signal.signal(number, handler)


def beats(context):
    return Heartbeats(context.control).beats()


def test_a_finished_source_is_saved_closed_and_done(context):
    stage = Counting(until=20)
    run(stage, context)
    assert (stage.saved, stage.closed) == (20, "clean")
    (beat,) = beats(context)
    assert (beat.phase, beat.progress, beat.position, beat.lag) == ("done", 20, {"t/0": 20}, 7)
    assert beat.pid == os.getpid()


def test_a_signal_saves_everything_done_so_far_before_it_ends(context):
    stage = Counting()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    run(stage, context)
    assert stage.done > 5
    assert stage.saved == stage.done
    assert stage.closed == "clean"


def test_bad_state_stops_the_service_says_failed_and_still_closes(context):
    stage = Counting(fail=True)
    with pytest.raises(BadState, match="the floor is gone"):
        run(stage, context)
    assert stage.closed == "torn"
    assert [beat.phase for beat in beats(context)] == ["failed"]


@pytest.mark.slow
def test_while_it_runs_the_heartbeat_moves(context):
    stage, seen = Counting(), []

    def look():
        until = time.monotonic() + 10
        while len({b.progress for b in seen}) < 2 and time.monotonic() < until:
            seen.extend(b for b in beats(context) if b.phase == "running")
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=look)
    thread.start()
    run(stage, context)
    thread.join()
    assert len({b.progress for b in seen}) >= 2
    assert all(b.progressed_at <= b.beat_at for b in seen)


def test_a_failure_midway_saves_nothing_more(context):
    stage = Counting()
    stage.pulse = lambda: Pulse(progress=stage.done)

    def work(wait_s):
        stage.done += 1
        if stage.done == 3:
            raise ValueError("a defect")
        return 1

    stage.work = work
    with pytest.raises(ValueError, match="a defect"):
        run(stage, context)
    assert (stage.saved, stage.closed) == (0, "torn")
    assert [beat.phase for beat in beats(context)] == ["failed"]


@pytest.mark.parametrize(
    ("pulse", "moves"),
    [
        (Pulse(position={"t/0": 6}, progress=1, lag=7), True),  # it refuses record after record: no standstill
        (Pulse(position={"t/0": 5}, progress=2, lag=7), True),  # it learns what it has read before
        (Pulse(position={"t/0": 5}, progress=1, lag=0), True),  # nothing waits
        (Pulse(position={"t/0": 5}, progress=1, lag=7), False),
        (Pulse(position={"t/0": 5}, progress=1, lag=None), False),
    ],
)
def test_progress_is_a_moved_offset_or_work_done_or_nothing_to_do(context, pulse, moves):
    heart = _Heart(Counting(), context)
    heart.turn(Pulse(position={"t/0": 5}, progress=1, lag=7))
    heart.progressed = 0.0
    heart.turn(pulse)
    assert (heart.progressed > 0.0) is moves


@pytest.mark.parametrize("hour", [3_600, -3_600])
def test_when_the_clock_is_set_a_beat_tells_the_same_ages_as_before(context, monkeypatch, hour):
    heart = _Heart(Counting(), context)
    heart.turn(Pulse(position={"t/0": 1}, progress=1, lag=7))
    heart.progressed -= 20.0
    heart.started -= 100.0
    wall = time.time
    monkeypatch.setattr("streaming.app.time.time", lambda: wall() + hour)
    heart.turn(Pulse(position={"t/0": 1}, progress=1, lag=7))
    while not beats(context):
        heart.beat()
    now = wall() + hour
    (beat,) = beats(context)
    assert 0.0 <= now - beat.beat_at < 15.0
    assert 19.9 < now - beat.progressed_at < 35.0
    assert 99.9 < now - beat.started_at < 115.0
