"""Dead letters on the command line: chosen ones go to their topic again as they were, and only once unless asked."""

import json

import pytest

from domain.config import Model, Project
from domain.errors import BadRecord, UsageError
from orchestration import dead_letters
from orchestration.dead_letters import find_letters, resend
from streaming.clock import SystemClock
from streaming.dead_letters import DeadLetters
from streaming.memory import Memory
from streaming.transport import Records
from warehouse.control import Control

FLEET = (Model(name="m", kind="rls", targets=("price_change", "direction", "volatility")),)
PROJECT = Project(instruments=("simulated:A", "simulated:B"), fleet=FLEET)
VALUES = [b"\xff", b'{"a":1}', b""]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A log with three records that two services refused, the newest for another reason."""
    memory = Memory()
    with Control.open(f"sqlite:///{tmp_path / 'control.sqlite'}") as control:
        for service in ("trainer", "lander"):
            dead = DeadLetters(service, control, memory.writer())
            for i, reason in enumerate(("schema", "schema", "late")):
                dead.refuse(Records("features", 1, [4, 5, 6], VALUES), i, BadRecord(reason, "no"))
    monkeypatch.setattr(dead_letters, "_transport", lambda: memory)
    return memory


def found(memory, **only):
    return find_letters(memory, SystemClock(), **only)


def test_the_list_has_the_newest_first_and_counts_them_all(memory, capsys):
    dead_letters.list_letters("", "", "", 2, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["total"] == 6
    assert {(c["service"], c["reason"]): c["n"] for c in said["counts"]} == {
        (service, reason): n for service in ("trainer", "lander") for reason, n in (("schema", 2), ("late", 1))
    }
    assert [letter["id"] for letter in said["letters"]] == [5, 4]
    dead_letters.list_letters("late", "trainer", "features", 20, as_json=False)
    assert "1 dead letters: 1 trainer late" in capsys.readouterr().out


def test_one_letter_is_shown_in_full_and_an_unknown_one_is_one_clear_line(memory, capsys):
    dead_letters.show_letter(0)
    said = json.loads(capsys.readouterr().out)
    assert (said["offset"], said["payload"], said["encoding"], said["message"]) == (4, "/w==", "base64", "schema: no")
    with pytest.raises(UsageError, match="no dead letter 77"):
        dead_letters.show_letter(77)


def test_a_record_that_two_services_refused_goes_out_once_oldest_first_and_a_second_replay_sends_nothing(memory):
    assert resend(memory, PROJECT, found(memory, reason="schema"), again=False, dry_run=True) == (2, "")
    assert ("features", 1) not in memory.logs
    assert resend(memory, PROJECT, found(memory, reason="schema"), again=False, dry_run=False) == (2, "")
    assert memory.logs["features", 1] == VALUES[:2]
    sent, why = resend(memory, PROJECT, found(memory), again=False, dry_run=False)
    assert (sent, memory.logs["features", 1]) == (1, VALUES)
    assert "4 were before" in why
    assert resend(memory, PROJECT, found(memory), again=True, dry_run=False)[0] == 3
    assert len(memory.logs["features", 1]) == 6


def test_a_frame_of_an_exchange_goes_to_no_topic(memory, tmp_path):
    with Control.open(f"sqlite:///{tmp_path / 'control.sqlite'}") as control:
        dead = DeadLetters("ingest", control, memory.writer())
        dead.refuse(Records("trades", -1, [-1], [b'{"e":"trade"}']), 0, BadRecord("schema", "no price"))
    sent, why = resend(memory, PROJECT, found(memory, service="ingest"), again=False, dry_run=False)
    assert (sent, why) == (0, ", 1 are frames of an exchange: it was asked for their trades")
    assert not any(topic == "trades" for topic, _ in memory.logs)


def test_a_replay_must_choose():
    with pytest.raises(UsageError, match="--reason"):
        dead_letters.replay_letters([], "", "", "", again=False, dry_run=True)
