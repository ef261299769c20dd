"""Law 4: of two trainers on one line exactly one publishes in an epoch, whoever sleeps, wakes or races."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.backfill import write_bars, write_examples, write_features
from assets.training import train_initial
from markets.drawn import draw_candles
from orchestration import faults
from orchestration.differences import compare
from orchestration.planned import plan
from tests.chaos.conftest import MINUTES
from tests.walk.conftest import with_publishing
from warehouse.control import Control
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.registry import Registry

ROOT = Path(__file__).parents[2]
ROUNDS = 50


@pytest.fixture
def line(tmp_path):
    """A home whose lake holds the whole market and whose only line has learned the first half."""
    draw_candles(tmp_path / "candles.parquet", ("AAA-USD",), MINUTES, seed=3)
    with plan([tmp_path / "candles.parquet"], "", "", "", [], tmp_path / "home") as made:
        planned = with_publishing(made, 1)
        p, (name,), places = planned.project, planned.project.instruments, planned.places
        with Lake.open(places) as lake, Control.open(places.control) as control:
            end = planned.source.span(name)[1]
            write_bars(lake, planned.source, p, name, planned.starts[name], end, "test")
            write_features(lake, p, name, planned.starts[name], end, "test")
            write_examples(lake, p, name, planned.starts[name], end, "test")
            registry = Registry(control, places.models, model_key(places))
            train_initial(lake, control, registry, p, name, planned.starts[name], planned.until, lambda _: None)
        yield planned


class Racer:
    """A trainer in a process of its own."""

    def __init__(self, planned):
        command = [sys.executable, "-m", "tests.chaos.trainers", str(planned.places.home), str(planned.until)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, verb, number):
        self.process.stdin.write(f"{verb} {number}\n")
        self.process.stdin.flush()

    def hear(self):
        text = self.process.stdout.readline()
        assert text, "the trainer's process ended"
        return json.loads(text)

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()


@pytest.fixture
def racers(line):
    """Two trainers; they are gone afterwards, whatever became of the race."""
    both = [Racer(line), Racer(line)]
    yield both
    for racer in both:
        racer.process.kill()
        racer.process.wait(30)
        racer.process.stdin.close()
        racer.process.stdout.close()


@pytest.mark.timeout(900)
def test_of_two_racing_trainers_exactly_one_publishes_in_each_of_fifty_rounds(line, racers):
    published = {}  # version -> epoch
    for number in range(1, ROUNDS + 1):
        early, late = racers if number % 2 else racers[::-1]
        early.tell("open", number)
        epochs = {early: early.hear()["epoch"]}
        if number % 3 == 0:
            early.tell("go", number)  # it publishes while the other takes its lease away
        late.tell("open", number)
        if number % 3 == 0:
            said = {early: early.hear()}
            epochs[late] = late.hear()["epoch"]
            late.tell("go", number)
            said[late] = late.hear()
        else:
            epochs[late] = late.hear()["epoch"]
            for racer in racers:
                racer.tell("go", number)
            said = {racer: racer.hear() for racer in racers}
            assert said[early]["published"] == []
            assert said[late]["published"]
            assert f"(epoch {epochs[early]})" in said[early]["lost"]
            assert "\n" not in said[early]["lost"]
        assert epochs[late] > epochs[early]
        assert said[late]["lost"] == ""
        for racer in racers:
            for version in said[racer]["published"]:
                assert published.setdefault(version, epochs[racer]) == epochs[racer], "published in two epochs"
    for racer in racers:
        racer.end()
    (name,) = line.project.instruments
    with Control.open(line.places.control) as control:
        newest = Registry(control, line.places.models).newest(name)
    numbers = sorted(published)
    assert numbers == list(range(2, newest.number + 1)), "each version has one publisher"
    assert [published[n] for n in numbers] == sorted(published[n] for n in numbers), "an old epoch published late"
    assert newest.number > ROUNDS


def test_a_trainer_that_slept_past_its_lease_cannot_publish_when_it_wakes(undisturbed, wild, disturbed, tmp_path):
    """Twice: the second one is a copy of this home, which takes the lease at once, and one on another host's."""
    alias = tmp_path / "another-host"
    alias.symlink_to(wild.places.home)
    rounds, ended = [{}, {"TIDEMILL_HOME": str(alias)}], []

    def act(deployment, beats):
        begun = any(
            b.service == "trainer" and b.detail.get("version", {}) and b.progress > 1_150 for b in beats.beats()
        )
        if not rounds or not begun:
            return bool(rounds)
        pid = deployment.supervisor.status("trainer").pid
        if pid is None or not any(b.pid == pid and b.phase == "running" for b in beats.beats()):
            return True
        faults.fall_asleep(deployment, "trainer")
        more, until = rounds.pop(0), time.monotonic() + 300
        while time.monotonic() < until:  # the one of another host is refused until the lease has run out
            with faults.second(deployment, "trainer", more) as copy:
                if not faults.until_it_works(copy, "trainer", beats):
                    continue
                deployment.supervisor.kill("trainer", signal.SIGCONT)
                until_gone(pid)
                ended.append(pid)
                # Killed: asked to stop it would publish what it has, wherever it is by then, and versions go by count.
                copy.kill()
                copy.wait(60)
                return True
        raise AssertionError("no other trainer could take the lease over")

    report = disturbed(wild, act)
    calm, first = undisturbed
    assert len(ended) == 2
    log = (wild.places.home / "services" / "trainer" / "log").read_text()
    assert log.count("tidemill: ") >= 2
    assert log.count("lost the lease of") >= 2
    assert "Traceback" not in log
    assert compare(calm.places, wild.places, calm.project).differences == []
    assert report.learned == first.learned


def until_gone(pid):
    assert faults.gone_within(pid, 60.0), "the sleeper went on"
