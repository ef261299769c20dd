"""What the streams stand on, frozen and killed under a whole Tidemill: back by itself, once each, with a reason.

It runs after ``test_up``: a redeployment that it interrupts is a failed run, and there may be none there.
"""

import contextlib
import os
import signal

import pytest

from orchestration.deployment import FOUNDATION
from orchestration.homes import Home
from orchestration.processes import frozen, identity
from orchestration.supervisor import Supervisor
from tests.walk.up import wait_for

HEALS_S = 300  # on a busy machine; quiet: `python benchmarks/tending.py`


def healed(mill, supervisor, former):
    """Whether every process is another one than formerly, all are healthy, and Dagster answers."""

    def look():
        now = {name: supervisor.status(name) for name in former}
        if any(now[name].phase != "running" or now[name].pid == former[name].pid for name in former):
            return False
        try:
            return mill.status()[0] and mill.ask_dagster("{version}")["version"] and now
        except OSError:
            return False

    return look


def runs(pid):
    """Whether a process is neither stopped nor gone: a signal to one with many threads takes its moment."""
    who = identity(pid)
    return who is not None and not frozen(who)


@pytest.fixture
def supervisor(mill):
    it = Supervisor(mill.home / "services")
    wait_for("every service healthy", HEALS_S, lambda: mill.status()[0])
    yield it
    for name in it.names():
        assert len(Home(it.root / name).holders()) <= 2, f"{name} runs more than once"  # a shim and its child


@pytest.mark.timeout(900)
def test_a_frozen_foundation_is_never_called_running_and_is_replaced_by_its_shims(mill, supervisor):
    former = {name: supervisor.status(name) for name in FOUNDATION}
    for status in former.values():
        os.kill(status.pid, signal.SIGSTOP)
    wait_for("the kernel has stopped each", 30, lambda: not any(runs(status.pid) for status in former.values()))

    def seen():
        now = {name: supervisor.status(name) for name in FOUNDATION}
        lies = [name for name in FOUNDATION if now[name].pid == former[name].pid and now[name].phase == "running"]
        assert lies == []
        return all(status.phase == "running" for status in now.values())

    wait_for("another process of each", HEALS_S, seen)
    now = wait_for("all healthy again", HEALS_S, healed(mill, supervisor, former))
    assert all(status.reason.startswith("frozen: stopped for ") for status in now.values()), now
    assert {name: status.shim_pid for name, status in now.items()} == {
        name: status.shim_pid for name, status in former.items()
    }


@pytest.mark.timeout(900)
def test_a_foundation_killed_with_its_shims_is_brought_back_by_the_shims_of_the_streams(mill, supervisor):
    former = {name: supervisor.status(name) for name in FOUNDATION}
    for status in former.values():
        os.kill(status.shim_pid, signal.SIGKILL)
    for status in former.values():
        with contextlib.suppress(ProcessLookupError):  # the shim's end may have ended it
            os.kill(status.pid, signal.SIGKILL)
    now = wait_for("all healthy again", HEALS_S, healed(mill, supervisor, former))
    assert {status.reason for status in now.values()} == {"its shim was killed"}
