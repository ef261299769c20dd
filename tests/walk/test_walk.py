"""The walk of one trade through the real processes: nothing lost, nothing doubled, whatever is killed on the way."""

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.planned import plan
from orchestration.replay import Replay
from tests.walk.conftest import with_publishing

WARM_UP = 240
HORIZON = 5


def gone(home: Path) -> bool:
    """Whether no process has this home in its environment or arguments."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if str(home).encode() in (entry / "environ").read_bytes():
                return False
        except OSError:
            continue
    return True


def test_every_bar_of_the_file_becomes_a_vector_an_example_and_one_step_of_learning(planned, candles):
    _, spans = candles
    report = Replay(planned).run(verify=True)
    bars = sum(spans.values())
    assert report.bars == bars
    assert report.vectors == bars - WARM_UP * 2
    assert report.examples == report.learned == bars - (WARM_UP + HORIZON) * 2
    assert report.predictions == report.streamed["features"]
    assert report.dead_letters == 0
    assert all(line["bit_identical"] for line in report.lines.values())
    assert all(line["versions"] > 5 for line in report.lines.values())
    assert gone(planned.places.home)


def test_a_model_whose_trainer_was_killed_five_times_equals_the_undisturbed_one(planned):
    """Law 3 for the trainer: the restart loads its version, seeks to its offsets and forgets or doubles nothing."""
    rng, killed = random.Random(3), []

    def kill(deployment, beats):
        pid = deployment.supervisor.status("trainer").pid
        works = any(b.service == "trainer" and b.pid == pid and b.phase == "running" for b in beats.beats())
        if len(killed) < 5 and works and pid not in killed and rng.random() < 0.5:
            deployment.supervisor.kill("trainer", signal.SIGKILL)
            killed.append(pid)

    report = Replay(slowed(planned, 1_300.0), on_tick=kill).run(verify=True)
    assert len(killed) == 5
    assert all(line["bit_identical"] for line in report.lines.values())
    assert report.learned == report.examples


@pytest.mark.parametrize("victim", ["featurizer", "predictor", "lander", "broker", "ingest"])
def test_rows_are_neither_lost_nor_doubled_when_a_service_is_killed(planned, victim, candles):
    _, spans = candles
    killed = []

    def kill(deployment, beats):
        status = deployment.supervisor.status(victim)
        begun = any(b.service == "featurizer" and b.progress > 200 for b in beats.beats())
        if len(killed) < 2 and begun and status.pid and status.pid not in killed and status.phase == "running":
            deployment.supervisor.kill(victim, signal.SIGKILL)
            killed.append(status.pid)

    report = Replay(slowed(planned), on_tick=kill).run(verify=True)
    assert killed, "the stream ended before anything was killed: slow it down"
    assert report.bars == sum(spans.values())
    assert report.vectors == report.bars - WARM_UP * 2
    assert report.learned == report.examples == report.bars - (WARM_UP + HORIZON) * 2
    assert report.predictions == report.streamed["features"]
    assert all(line["bit_identical"] for line in report.lines.values())


def slowed(planned, speed=9_000.0):
    """Return the plan at a speed that leaves time to kill things: at 9,000 the stream takes about five seconds."""
    market = planned.project.market.model_copy(update={"speed": speed})
    return with_publishing(replace(planned, project=planned.project.model_copy(update={"market": market})), 40)


def test_real_trades_walk_through_the_real_processes(tmp_path, shelf):
    data = shelf("trades_binance_20240809.parquet")
    chosen = ["recorded:BTC-USDT", "recorded:ETH-USDT"]
    with plan([data], "", "1s", "30s", chosen, tmp_path / "home") as made:
        report = Replay(made).run(verify=True)
    assert report.bars == 648 + 648
    assert report.vectors == report.bars - WARM_UP * 2
    assert report.learned == report.examples == report.vectors - 30 * 2
    assert report.predictions == report.streamed["features"] > 600
    assert report.dead_letters == 0
    assert all(line["bit_identical"] for line in report.lines.values())
