import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from domain.errors import Unavailable
from warehouse import control as door
from warehouse.control import Control
from warehouse.engines import Pace
from warehouse.files import exclusive
from warehouse.holders import holder_of, writer_of

HOUSE = Path(__file__).parents[2]

# Takes SQLite's write lock on the database of its argument, or the lock file, says so, and keeps it.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""
LOCKER = """
import sys, time
from pathlib import Path
from warehouse.files import exclusive
with exclusive(Path(sys.argv[1]), 60):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holding():
    """Run a process that takes a lock and keeps it; all of them are gone afterwards."""
    started = []

    def run(code, path):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=HOUSE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(60)
        process.stdout.close()


@pytest.fixture
def database(places, control):
    return Path(control.url.database)


def stop(process):
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def hasty(places):
    """A control database whose writers give up after a quarter of a second."""
    with Control.open(places.control, Pace.BRISK) as control:
        yield control


@pytest.mark.process
def test_who_holds_the_write_lock_is_known_by_pid_and_command(database, holding):
    assert writer_of(database) is None
    writer = holding(WRITER, database)
    found = writer_of(database)
    assert (found.pid, found.stopped) == (writer.pid, False)
    assert sys.executable in found.command
    stop(writer)
    assert writer_of(database).stopped
    link = database.with_name("link")
    link.symlink_to(database)
    assert writer_of(link).pid == writer.pid
    writer.kill()
    writer.wait(60)
    assert writer_of(database) is None


def test_to_look_who_holds_the_lock_does_not_drop_ones_own(database, control, holding):
    """POSIX locks of a process go when it closes any descriptor of the file."""

    def work(_connection):
        assert writer_of(database).pid == os.getpid()
        assert writer_of(database).pid == os.getpid()

    control.write(work)


@pytest.mark.process
def test_a_service_is_named_as_a_person_would_type_it():
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", "-m", "orchestration.cli"]
    with subprocess.Popen([*command, "run", "trainer"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        named = str(holder_of(process.pid))
        process.kill()
    assert named == f"process {process.pid} (tidemill run trainer); look at that process"


@pytest.mark.process
def test_a_write_that_meets_a_lock_that_does_not_move_names_its_holder_and_what_to_do(database, hasty, holding):
    writer = holding(WRITER, database)
    with pytest.raises(Unavailable, match=rf"is locked by process {writer.pid} \(.*; look at that process$"):
        hasty.count_dead_letter("s", "r")
    stop(writer)
    says = f"which is stopped; 'kill -CONT {writer.pid}' lets it go on, 'kill -KILL {writer.pid}' ends it$"
    with pytest.raises(Unavailable, match=says):
        hasty.count_dead_letter("s", "r")


@pytest.mark.process
def test_a_writer_waits_for_a_stopped_holder_to_be_ended_and_not_for_one_that_runs(
    database, control, holding, monkeypatch
):
    monkeypatch.setattr(door, "STOPPED_S", 120.0)  # however slow the machine
    control._durable.dispose()
    control._durable = door.engine_of(control.url, Pace.BRISK)
    writer = holding(WRITER, database)
    with pytest.raises(Unavailable, match="look at that process"):
        control.count_dead_letter("s", "r")
    stop(writer)
    waiting = threading.Thread(target=control.count_dead_letter, args=("s", "r"))
    waiting.start()
    began = time.monotonic()
    while time.monotonic() - began < 1.0:  # several times as long as a try
        assert waiting.is_alive()
        waiting.join(0.1)
    writer.kill()
    waiting.join(60)
    assert not waiting.is_alive()
    assert control.dead_letters() == {("s", "r"): 1}


def test_postgresql_ends_a_transaction_whose_client_is_stopped(postgres, monkeypatch):
    monkeypatch.setattr("warehouse.engines._IDLE_MS", 500)
    with Control.open(postgres.database()) as first, Control.open(str(first.url.render_as_string(False))) as second:
        first.count_dead_letter("s", "r")

        def stopped(connection):
            connection.exec_driver_sql("UPDATE dead_letters SET n = 99")
            second.count_dead_letter("s", "r")  # waits for the row, until the server has ended this transaction
            return connection.exec_driver_sql("SELECT 1")

        with pytest.raises(Unavailable, match="cannot be used"):
            first.write(stopped)
        assert second.dead_letters() == {("s", "r"): 2}


@pytest.mark.process
def test_the_holder_of_a_lock_file_is_named_with_its_state(tmp_path, holding):
    locker = holding(LOCKER, tmp_path / "writer.lock")
    stop(locker)
    with pytest.raises(Unavailable) as refused, exclusive(tmp_path / "writer.lock", 0.1):
        pass
    assert f"by process {locker.pid} (" in str(refused.value)
    assert "which is stopped" in str(refused.value)
