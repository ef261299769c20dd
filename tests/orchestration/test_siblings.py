"""A service whose shim was killed is given another by the shims next to it: one, and only where it should have it."""

import errno
import os
import shutil
import signal
import subprocess
import time

import pytest

from orchestration import homes, siblings
from orchestration.policy import Policy
from orchestration.processes import group, identity
from orchestration.siblings import Siblings
from orchestration.supervisor import Supervisor
from orchestration.up import down
from tests.orchestration.scenes import DEAF, control, until

KEPT = Policy(base_s=0.02, grace_s=1.0, keep=True)
WATCHERS = ("ingest", "lander", "trainer")
LOOKS_S = 5.0  # in which every shim has looked at least twice


def kill_shim(status):
    os.kill(status.shim_pid, signal.SIGKILL)


def looked():
    """Wait until every shim has looked."""
    since = time.monotonic()
    until(lambda: time.monotonic() - since > LOOKS_S)


@pytest.fixture
def watched(scene):
    """A kept broker, and three services whose shims see it."""
    for name in WATCHERS:
        Supervisor(scene.root, Policy(base_s=0.02)).start(name, ["sleep", "600"])
    scene.it = Supervisor(scene.root, KEPT)
    return scene


def test_a_lost_sibling_is_restarted_exactly_once_by_many_watchers(watched):
    for life in (1, 2):
        former = watched.run("broker") if life == 1 else watched.it.status("broker")
        kill_shim(former)
        until(lambda life=life: len(watched.born()) == life + 1, 60)
        again = watched.it.wait("broker", {"running"}, 60)
        assert (again.generation, again.restarts, again.reason) == (1, life, "its shim was killed")
        assert again.shim_pid != former.shim_pid
        assert watched.living() == [again.pid]
    looked()
    assert len(watched.born()) == 3


def test_an_orphan_that_does_not_hear_is_ended_before_its_successor_begins(watched):
    first = watched.run("broker", what=DEAF)
    who = identity(first.pid)
    kill_shim(first)
    until(lambda: len(watched.born()) == 2, 60)
    assert group(who) == []
    assert watched.living() == [watched.it.wait("broker", {"running"}, 60).pid]


def test_a_paused_orphan_is_ended_too(watched):
    first = watched.run("broker")
    watched.pause(first.pid)
    kill_shim(first)
    until(lambda: len(watched.born()) == 2, 60)
    assert watched.living() == [watched.it.wait("broker", {"running"}, 60).pid]


def test_what_was_stopped_failed_let_go_removed_or_is_not_to_be_kept_stays_as_it_is(watched):
    for name in ("broker", "exchange", "featurizer"):
        watched.run(name)
    watched.it.stop("broker")
    watched.it.start("predictor", ["/no/such/command"])
    removed = watched.it.status("featurizer")
    watched.it.let_go()
    shutil.rmtree(watched.home("featurizer"))
    for status in (removed, watched.it.status("exchange"), watched.it.status("lander")):
        kill_shim(status)
    looked()
    phases = {name: watched.it.status(name).phase for name in watched.it.names()}
    gone = {"broker": "stopped", "predictor": "failed", "exchange": "lost", "lander": "lost"}
    assert phases == {**gone, "ingest": "running", "trainer": "running"}
    assert watched.living() == []
    assert len(watched.born()) == 3


def test_nothing_is_started_while_a_controller_is_at_work(watched):
    first = watched.run("broker")
    code = """
    import time
    from orchestration.homes import Home
    with Home(Path(sys.argv[1])).control(10.0):
        print("go", flush=True)
        time.sleep(600)
    """
    controller = control(code, watched.home("broker"), stdout=subprocess.PIPE)
    try:
        controller.stdout.readline()
        kill_shim(first)
        looked()
        assert watched.it.status("broker").pid is None
        assert len(watched.born()) == 1
    finally:
        controller.kill()
        controller.communicate()
    until(lambda: len(watched.born()) == 2, 60)


@pytest.mark.parametrize("ahead_s", [0.0, 1.5])
def test_down_leaves_nothing_to_watchers_that_are_about_to_restart_what_it_stops(watched, monkeypatch, ahead_s):
    first = watched.run("broker")
    kill_shim(first)
    struck = time.monotonic()
    until(lambda: time.monotonic() - struck >= ahead_s)
    monkeypatch.setenv("TIDEMILL_HOME", str(watched.root.parent))
    down()
    looked()
    assert watched.living() == []
    assert {watched.it.status(name).phase for name in watched.it.names()} == {"stopped"}


def test_a_start_after_letting_go_keeps_it_again(watched):
    first = watched.run("broker")
    watched.it.let_go()
    assert watched.it.start("broker", watched.command()) == first
    kill_shim(first)
    until(lambda: len(watched.born()) == 2, 60)


def test_a_paused_shim_is_continued(watched):
    first = watched.run("broker")
    watched.pause(first.shim_pid)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: len(watched.born()) == 2, 60)
    again = watched.it.wait("broker", {"running"}, 60)
    assert again.shim_pid == first.shim_pid


def test_one_that_cannot_be_started_is_tried_with_growing_pauses(scene, monkeypatch):
    scene.it = Supervisor(scene.root, KEPT)
    kill_shim(scene.run("broker"))
    scene.it.wait("broker", {"lost"}, 60)
    log, now, tries = scene.home("broker") / "log", [0.0], []
    log.unlink()
    log.mkdir()  # no shim can be launched
    monkeypatch.setattr(siblings.time, "monotonic", lambda: now[0])
    watcher = Siblings(scene.home("trainer"))
    for second in range(64):
        now[0] = float(second)
        before = dict(watcher.tries)
        watcher.look()
        tries += [second] if watcher.tries != before else []
    assert tries == [0, 1, 3, 7, 15, 31, 63]
    log.rmdir()


def test_a_disk_that_takes_no_record_keeps_nothing_running(watched, monkeypatch):
    first = watched.run("broker")
    monkeypatch.setattr(homes, "write_json", full)
    watched.it.let_go()
    with pytest.raises(OSError, match="No space left"):
        watched.it.stop_all()
    assert [name for name in ("broker", *WATCHERS) if homes.Home(watched.root / name).holders()] == []
    assert watched.born() == [first.pid]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
