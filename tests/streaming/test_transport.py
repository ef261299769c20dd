"""An offset is good only in the log that it was taken from; where it is not, the whole log is read again."""

import pytest

from domain.errors import BadState, Unavailable
from streaming.clock import SystemClock
from streaming.codec import event_time, is_followed
from streaming.memory import Memory
from streaming.transport import LOOK_S, Logs, find, tails

KEY = ("features", 0)


class Hand:
    """A clock that is moved by hand."""

    now = 0.0

    def time_ns(self):
        return int(self.now * 1e9)

    def monotonic(self):
        return self.now


@pytest.fixture
def memory():
    memory = Memory()
    memory.append(KEY, [record(n) for n in range(1, 11)])
    return memory


def record(n):
    return b'{"ts_event":%d}' % n


def resume(memory, offset, log, watermark):
    return Logs(memory, SystemClock(), ["features"], 1).resume(KEY, offset, log, lambda v: is_followed(v, watermark))


def test_an_offset_of_this_very_log_is_where_reading_goes_on(memory):
    log = memory.identities(["features"])["features"]
    assert resume(memory, 4, log, 4) == (4, "")
    assert resume(memory, 10, log, 10) == (10, "")
    assert resume(memory, 0, log, 0) == (0, "")
    assert resume(memory, None, None, 0) == (0, "")


def test_a_topic_made_anew_is_read_from_its_start(memory):
    log = memory.identities(["features"])["features"]
    memory.make_anew("features")
    memory.append(KEY, [record(n) for n in range(1, 20)])
    assert resume(memory, 4, log, 4) == (0, "the topic was made anew")


def test_a_log_that_lost_its_end_is_read_from_its_start(memory):
    log = memory.identities(["features"])["features"]
    del memory.logs[KEY][3:]
    assert resume(memory, 7, log, 7) == (0, "the log ends at 3, before 7")


def test_a_log_that_lost_its_end_and_grew_again_is_known_by_the_record_before_the_offset(memory):
    log = memory.identities(["features"])["features"]
    memory.logs[KEY][3:] = [record(n) for n in range(100, 110)]
    start, why = resume(memory, 7, log, 7)
    assert start == 0
    assert "not the one" in why


def test_records_that_expired_unread_are_named(memory):
    log = memory.identities(["features"])["features"]
    memory.expire(KEY, 6)
    assert resume(memory, 4, log, 4) == (6, "records 4 to 6 have expired")
    assert resume(memory, 6, log, 6) == (6, "")
    assert resume(memory, 8, log, 8) == (8, "")


def test_rubbish_before_the_offset_says_nothing_against_it(memory):
    log = memory.identities(["features"])["features"]
    memory.logs[KEY][3] = b"\xff\xfe"
    assert resume(memory, 4, log, 3) == (4, "")


def test_an_example_counts_as_followed_by_when_it_became_available():
    example = b'{"ts_event":5,"ts_available":9}'
    assert not is_followed(example, 8)
    assert is_followed(example, 9)


def test_a_topic_made_anew_under_a_running_service_stops_it(memory):
    clock = Hand()
    logs = Logs(memory, clock, ["features"], 1)
    memory.make_anew("features")
    logs.check()  # it looks now and then only
    clock.now += LOOK_S
    with pytest.raises(BadState, match="features was made anew"):
        logs.check()


def test_the_tails_of_a_partition_and_a_search_work_on_any_transport(memory):
    clock = SystemClock()
    memory.append(KEY, [b"rubbish"] * 20)
    assert [len(values) for values in tails(memory, clock, KEY)] == [30]
    memory.append(KEY, [b"rubbish"] * 300)
    assert [len(values) for values in tails(memory, clock, KEY)] == [256, 330]
    assert find(memory, clock, KEY, 0, lambda v: event_time(v) > 6) == 6


def test_an_offset_that_memory_does_not_have_is_refused_as_a_broker_would(memory):
    with pytest.raises(Unavailable, match="no offset 99"):
        memory.reader("test", {KEY: 99}).poll(0)
