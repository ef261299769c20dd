"""A dead letter gives back the very bytes, however wrong or large they are, and is counted once a record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRecord
from streaming.clock import SystemClock
from streaming.codec import encode
from streaming.dead_letters import KEPT_BYTES, DeadLetters, letter_of, payload_of, read_letters, send_again
from streaming.memory import Memory
from streaming.transport import Records
from warehouse.control import Control

LARGEST_MESSAGE = 1_000_000
ERROR = BadRecord("schema", "it is wrong")


@pytest.fixture
def control(tmp_path):
    with Control.open(f"sqlite:///{tmp_path / 'control.sqlite'}") as control:
        yield control


def records(*values, first=7):
    return Records("trades", 1, list(range(first, first + len(values))), list(values))


def letters(memory, **only):
    def wanted(letter):
        return all(getattr(letter, name) == value for name, value in only.items())

    return read_letters(memory, SystemClock(), wanted)


@given(st.binary(max_size=300))
def test_any_bytes_come_back_as_they_were(value):
    assert payload_of(letter_of("trainer", records(value), 0, ERROR)) == value


@pytest.mark.slow
@given(st.text(max_size=100))
def test_text_stays_readable_for_any_client(text):
    letter = json.loads(encode(letter_of("trainer", records(text.encode()), 0, ERROR)))
    assert (letter["payload"], letter["encoding"]) == (text, "text")


@pytest.mark.parametrize("value", [b"\x01" * KEPT_BYTES, b"\xff" * KEPT_BYTES, b"a" * 5_000_000, b"\\" * 1_048_000])
def test_the_letter_of_the_largest_record_still_fits_a_message(value):
    error = BadRecord("schema", "x\ud800" * 1_000_000)
    letter = letter_of("trainer", records(value), 0, error)
    assert len(encode(letter)) < LARGEST_MESSAGE
    assert letter.size == len(value)
    whole = payload_of(letter)
    assert whole == value if len(value) <= KEPT_BYTES else whole is None


def test_a_letter_that_does_not_hold_what_its_digest_says_is_refused():
    letter = letter_of("trainer", records(b"abc"), 0, ERROR)
    changed = type(letter)(**{name: getattr(letter, name) for name in letter.__struct_fields__} | {"payload": "abd"})
    with pytest.raises(BadRecord, match="digest"):
        payload_of(changed)


def test_a_letter_is_safe_before_anything_is_counted(control):
    order = []

    class Writer:
        def send(self, topic, partition, key, values):
            order.append("sent")

        def flush(self, timeout_s=30.0):
            order.append(("safe", control.dead_letters()))

    dead = DeadLetters("trainer", control, Writer())
    dead.save()
    assert order == []
    dead.refuse(records(b"x", b"y"), 1, ERROR)
    dead.save()
    assert order == ["sent", ("safe", {})]
    assert control.dead_letters() == {("trainer", "schema"): 1}
    assert dead.totals == DeadLetters("trainer", control, Writer()).totals == {"schema": 1}


def test_what_a_crash_repeats_is_listed_once_a_service_newest_first_and_chosen_by_what_is_asked(control):
    memory = Memory()
    for service in ("trainer", "lander"):
        for _ in range(2):
            dead = DeadLetters(service, control, memory.writer())
            dead.refuse(records(b"x", b"y"), 0, ERROR)
            dead.refuse(records(b"x", b"y"), 1, BadRecord("price", "-1"))
    memory.append(("dead_letters", 0), [b"rubbish", b"\xff"])
    found = letters(memory)
    assert [(f.letter.service, f.letter.offset, f.times) for f in found] == [
        ("lander", 8, 2),
        ("lander", 7, 2),
        ("trainer", 8, 2),
        ("trainer", 7, 2),
    ]
    assert [f.number for f in found] == sorted((f.number for f in found), reverse=True)
    assert [f.letter.offset for f in letters(memory, service="trainer", reason="price")] == [8]


def test_records_that_never_reached_a_topic_are_not_taken_for_one_another(control):
    memory = Memory()
    dead = DeadLetters("ingest", control, memory.writer())
    for value in (b"x", b"y"):
        dead.refuse(Records("bars", 0, [-1], [value]), 0, ERROR)
    assert [payload_of(f.letter) for f in letters(memory)] == [b"y", b"x"]


def test_a_replay_sends_the_very_bytes_and_marks_the_record_for_every_service(control):
    memory = Memory()
    for service in ("trainer", "lander"):
        DeadLetters(service, control, memory.writer()).refuse(records(b"\xff\x00", b"y"), 0, ERROR)
    first = letters(memory)[0]
    assert send_again(memory.writer(), first, "a:B")
    assert memory.logs["trades", 1] == [b"\xff\x00"]
    assert [f.replayed for f in letters(memory)] == [True, True]


def test_a_record_kept_only_in_part_is_not_sent_again(control):
    memory = Memory()
    DeadLetters("trainer", control, memory.writer()).refuse(records(b"x" * (KEPT_BYTES + 1)), 0, ERROR)
    assert not send_again(memory.writer(), letters(memory)[0], "a:B")
    assert ("trades", 1) not in memory.logs
