"""What a service's processes add up to, over restarts and redeployments."""

import dataclasses
import os

import pytest

from domain.health import Beat
from orchestration.homes import Status
from orchestration.lives import EVERY_S, FIRST_S, Life
from orchestration.tending import Look

NOW = 1_000_000.0
PID = os.getpid()


def look(pid=PID, generation=1, restarts=0, progress=0, lag=0):
    status = Status("trainer", "running", generation, pid=pid, started_at=int((NOW - 500) * 1e9), restarts=restarts)
    beat = Beat("trainer", "a", pid, "running", generation, {}, progress, NOW, lag, True, NOW, NOW - 500)
    return Look(status, {}, beat)


def told(life, at, **what):
    """Return the figures of a look, by way of a cursor."""
    figures = life.look(look(**what), at)
    assert Life.of(life.plain()) == life
    return figures


def test_it_is_told_after_a_first_stretch_and_then_once_an_hour():
    life = Life()
    moments = [NOW + 5 * i for i in range(int(2.5 * EVERY_S / 5))]
    at = [moment - NOW for moment in moments if told(life, moment)]
    assert at == [FIRST_S, FIRST_S + EVERY_S, FIRST_S + 2 * EVERY_S]


def test_the_rate_is_of_the_stretch_since_the_last_observation_and_of_one_process():
    life = Life()
    told(life, NOW, progress=1000)
    assert told(life, NOW + 100, progress=1200)["progress_per_s"] == 2.0
    assert told(life, NOW + 100 + EVERY_S, progress=1200 + EVERY_S)["progress_per_s"] == 1.0
    assert told(life, NOW + 10 * EVERY_S, pid=PID + 1, progress=3) is None
    assert told(life, NOW + 10 * EVERY_S + FIRST_S, pid=PID + 1, progress=63)["progress_per_s"] == 1.0


def test_restarts_are_of_all_deployments():
    life = Life()
    told(life, NOW, restarts=2)
    told(life, NOW + 1, restarts=3)
    told(life, NOW + 2, generation=2)
    figures = told(life, NOW + FIRST_S, generation=2, restarts=1)
    assert (figures["restarts"], figures["redeployments"]) == (4, 1)


@pytest.mark.parametrize("phase", ["crashed", "crash_loop", "stopped", "starting"])
def test_one_that_does_not_run_is_not_told(phase):
    life, running = Life(), look()
    told(life, NOW)
    gone = dataclasses.replace(running, status=dataclasses.replace(running.status, phase=phase, pid=None))
    assert life.look(gone, NOW + 2 * EVERY_S) is None


def test_unknown_lag_is_left_out():
    life = Life()
    told(life, NOW)
    figures = told(life, NOW + FIRST_S, lag=None)
    assert "lag" not in figures
    assert figures["memory_mb"] > 1
