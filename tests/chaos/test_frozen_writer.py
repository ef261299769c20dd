"""A process that is stopped inside a write of the control database: it is ended, and every other one goes on."""

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from orchestration.supervisor import Policy, Supervisor
from tests.orchestration.scenes import until
from warehouse.control import Control
from warehouse.holders import writer_of

ROOT = Path(__file__).parents[2]
LONGEST_S = 30.0

# The first life stays inside its transaction; a later one only lives.
HOLDER = """
import os, sys, time
from pathlib import Path
from warehouse.control import Control
url, held = sys.argv[1], Path(sys.argv[2])
def stay(connection):
    held.write_text(str(os.getpid()))
    time.sleep(600)
if not held.exists():
    Control.open(url).write(stay)
time.sleep(600)
"""
# Writes durably, again and again, and notes when each write was committed.
WRITER = """
import sys, time
from warehouse.control import Control
with Control.open(sys.argv[1]) as control, open(sys.argv[2], "a", buffering=1) as commits:
    while True:
        control.count_dead_letter("writer", "test")
        commits.write(f"{time.time()}\\n")
        time.sleep(0.1)
"""


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(tmp_path / "services", Policy(base_s=0.1, grace_s=2.0))
    yield made
    made.stop_all()


def test_who_freezes_inside_a_write_is_ended_and_all_others_go_on_within_half_a_minute(supervisor, tmp_path):
    database, held, commits = (tmp_path / name for name in ("control.sqlite", "held", "commits"))
    url = f"sqlite:///{database}"
    Control.open(url).close()
    run = {"cwd": ROOT, "env": {"PYTHONPATH": str(ROOT)}}

    def times():
        return [float(line) for line in commits.read_text().splitlines()] if commits.exists() else []

    supervisor.start("writer", [sys.executable, "-c", WRITER, url, str(commits)], **run)
    until(lambda: len(times()) > 3, 120)
    writer = supervisor.status("writer").pid
    supervisor.start("holder", [sys.executable, "-c", HOLDER, url, str(held)], **run)
    until(lambda: held.exists() and held.read_text(), 120)
    holder = int(held.read_text())
    os.kill(holder, signal.SIGSTOP)
    found = until(lambda: (now := writer_of(database)) and now.stopped and now, 60)
    assert found.pid == holder
    before = times()
    until(lambda: len(times()) > len(before) + 3, 300)
    after = times()
    assert max(late - early for early, late in pairwise(after)) < LONGEST_S
    assert supervisor.status("writer").pid == writer, "it waited, and did not crash"
    now = supervisor.wait("holder", {"running"}, 60)
    assert now.pid != holder
    assert "frozen" in now.reason
