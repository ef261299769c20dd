"""A trainer killed hundreds of times ends with the very model that nobody disturbed; planted bugs do not."""

import os
import re
import time

import pytest

import streaming.trainer
import warehouse.registry
from streaming.gate import Gate
from tests.chaos.fork_loop import loop
from tests.chaos.mill_in_memory import Setting, Told

KILLS = int(os.environ.get("TIDEMILL_KILLS", "500"))
"""A minute's worth; 2,000 and more before a release."""
SEED = 20_261_124


@pytest.fixture(scope="module")
def told():
    return Told(Setting())


@pytest.mark.timeout(900)
def test_any_number_of_kills_leaves_no_trace_in_the_model(told):
    outcome = loop(KILLS, SEED, told)
    assert outcome.faults == []
    assert outcome.kills == KILLS
    assert outcome.versions > KILLS / 10, "the trainers died before they published anything: give them longer lives"


def caught(told, kills=40):
    """What a loop finds when a bug was planted before it."""
    return " ".join(loop(kills, SEED, told).faults)


def more_or_less(told, faults):
    """How many examples were learned too many, or too few; the trainers themselves must not have failed."""
    assert "exit code" not in faults
    return int(re.search(r"learned (\d+) of", faults)[1]) - told.n_learned


def test_a_step_learned_twice_is_caught(told, monkeypatch):
    """Planted: a restart reads a little too early, and the gate has forgotten what was seen before."""
    publish = streaming.trainer.Trainer._publish

    def too_early(self, partition, station):
        station.examples.next_offset = max(0, station.examples.next_offset - 1)
        publish(self, partition, station)

    monkeypatch.setattr(streaming.trainer.Trainer, "_publish", too_early)
    monkeypatch.setattr(
        streaming.trainer,
        "Gate",
        lambda newest, interval, refuse, joint: Gate(newest - interval, interval, refuse, joint),
    )
    assert more_or_less(told, caught(told)) > 0


def test_a_step_left_out_is_caught(told, monkeypatch):
    """Planted: a restart reads one record too late, and the record before the offset is not looked at."""
    publish = streaming.trainer.Trainer._publish

    def too_late(self, partition, station):
        station.examples.next_offset += 1
        publish(self, partition, station)
        station.examples.next_offset -= 1

    monkeypatch.setattr(streaming.trainer.Trainer, "_publish", too_late)
    monkeypatch.setattr(streaming.trainer.codec, "is_followed", lambda _value, _watermark: True)
    assert more_or_less(told, caught(told)) < 0


def test_a_row_without_its_file_is_caught(told, monkeypatch):
    """Planted: the row is committed before the file has its name."""
    moved = []
    publish = warehouse.registry.Registry.publish

    def row_first(self, *arguments):
        moved.clear()
        version = publish(self, *arguments)
        time.sleep(0.003)  # what a slow disk takes
        for staged, path in moved:
            staged.with_suffix(".late").rename(path)
        return version

    def later(staged, path):
        staged.rename(staged.with_suffix(".late"))
        moved.append((staged, path))

    monkeypatch.setattr(warehouse.registry, "settle", later)
    monkeypatch.setattr(warehouse.registry.Registry, "publish", row_first)
    assert "missing" in caught(told, kills=150)
