"""The shim as a program: what it imports, what it hands to its child, what it holds, and how it lives without Linux."""

import ast
import contextlib
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import processes, records, shim
from orchestration.processes import alive, end_group, group, identity, launch_shim, pid_of, signal_exact, wait_gone
from orchestration.supervisor import Policy, Supervisor
from tests.orchestration.scenes import until

SLEEP = ["sleep", "600"]
FILES = [Path(shim.__file__).with_name(f"{name}.py") for name in ("shim", "vitals", "siblings", "processes", "records")]
DEAF = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"]


@pytest.fixture
def supervisor(tmp_path):
    it = Supervisor(tmp_path / "services", Policy(base_s=0.02, grace_s=0.3))
    yield it
    it.stop_all()


@contextlib.contextmanager
def stranger(*argv):
    with subprocess.Popen(argv, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lock_is_free(home):
    with (home / "lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_shim_and_what_it_imports_need_the_standard_library_only():
    for file in FILES:
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {f"orchestration.{other.stem}" for other in FILES}
        assert {name.partition(".")[0] for name in names - ours} <= sys.stdlib_module_names, file


def test_the_shim_has_one_thread_because_parent_death_is_told_by_thread(supervisor):
    started = supervisor.start("trainer", SLEEP)
    assert len(list(Path(f"/proc/{started.shim_pid}/task").iterdir())) == 1


def test_the_child_leads_its_own_session_and_holds_null_the_log_pipe_and_the_lock(supervisor):
    started = supervisor.start("trainer", SLEEP)
    assert os.getsid(started.pid) == os.getpgid(started.pid) == started.pid
    assert os.getsid(started.shim_pid) not in {started.pid, os.getsid(0)}
    links = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{started.pid}/fd").iterdir()}
    lock = str(supervisor.log_path("trainer").with_name("lock"))
    assert sorted(links) == [0, 1, 2, next(fd for fd, target in links.items() if target == lock)]
    assert links[0] == "/dev/null"
    assert links[1] == links[2]
    assert links[1].startswith("pipe:")


def test_a_child_hears_sigint_as_by_default(supervisor):
    supervisor.start("trainer", SLEEP)
    assert supervisor.kill("trainer", signal.SIGINT)
    until(lambda: supervisor.status("trainer").reason == "signal SIGINT")


def test_the_lock_is_free_only_when_shim_and_child_are_gone(supervisor):
    started = supervisor.start("trainer", DEAF)
    until(lambda: supervisor.tail("trainer", 1) == ["ready"])
    home = supervisor.log_path("trainer").parent
    os.kill(started.shim_pid, signal.SIGKILL)
    supervisor.wait("trainer", {"orphan"}, 10)
    assert not lock_is_free(home)
    end_group(home.joinpath("child").read_text(), 0.0)
    assert supervisor.wait("trainer", {"lost"}, 10).pid is None
    assert lock_is_free(home)


def test_a_second_shim_finds_the_lock_held_and_touches_nothing(supervisor):
    started = supervisor.start("trainer", SLEEP)
    home = supervisor.log_path("trainer").parent
    assert launch_shim(home) == shim.LOCK_HELD
    assert supervisor.status("trainer") == started
    assert lock_is_free(home) is False


def test_two_signals_are_one_stop_and_a_stop_is_not_taken_back(supervisor):
    supervisor = Supervisor(supervisor.root, Policy(grace_s=0.5))
    started = supervisor.start("trainer", DEAF)
    until(lambda: supervisor.tail("trainer", 1) == ["ready"])
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        os.kill(started.shim_pid, number)
    ended = supervisor.wait("trainer", {"stopped"}, 10)
    assert (ended.generation, ended.exit_code) == (1, -signal.SIGKILL)


def test_a_stop_that_lost_its_controller_goes_on_and_a_start_follows_it(supervisor):
    started = supervisor.start("trainer", DEAF)
    until(lambda: supervisor.tail("trainer", 1) == ["ready"])
    os.kill(started.shim_pid, signal.SIGTERM)
    supervisor.wait("trainer", {"stopping"}, 10)
    again = supervisor.start("trainer", SLEEP)
    assert (again.phase, again.generation) == ("running", 2)
    assert again.shim_pid != started.shim_pid
    assert identity(started.pid) is None


def order(supervisor, **change):
    """Do what a controller does before it is killed."""
    path = supervisor.log_path("trainer").with_name("spec.json")
    records.write_json(path, {**json.loads(path.read_text()), **change})


@pytest.mark.parametrize(
    ("change", "meanwhile", "phase"),
    [
        ({"generation": 2}, "restarting", "running"),
        ({"stop": True}, "stopping", "stopped"),
    ],
)
def test_the_order_of_a_controller_that_died_before_the_signal_is_found_by_the_shim(
    supervisor, change, meanwhile, phase
):
    started = supervisor.start("trainer", SLEEP)
    order(supervisor, **change)
    assert supervisor.status("trainer").phase in {meanwhile, phase}
    assert supervisor.wait("trainer", {phase}, 10).generation == change.get("generation", 1)
    assert identity(started.pid) is None


def test_a_start_right_after_a_stop_that_lost_its_controller_is_not_undone_by_it(supervisor):
    started = supervisor.start("trainer", SLEEP)
    keeper = identity(started.shim_pid)
    os.kill(started.shim_pid, signal.SIGSTOP)  # so that it hears the stop only after the start began
    order(supervisor, stop=True)
    os.kill(started.shim_pid, signal.SIGTERM)
    again = supervisor.start("trainer", SLEEP)
    assert (again.phase, again.generation) == ("running", 2)
    assert wait_gone(keeper, 10)
    assert supervisor.status("trainer") == again


def test_a_start_does_not_take_an_unfinished_restart_for_a_running_service(supervisor):
    started = supervisor.start("trainer", SLEEP)
    os.kill(started.shim_pid, signal.SIGSTOP)
    order(supervisor, generation=2)
    again = supervisor.start("trainer", SLEEP)
    assert (again.phase, again.generation) == ("running", 3)
    assert identity(started.pid) is None


def test_sigterm_is_sent_once_because_a_second_may_mean_at_once(supervisor):
    supervisor = Supervisor(supervisor.root, Policy(grace_s=30.0))
    twice = "trap 'n=$((n+1)); echo heard $n; test $n = 2 && exit 1; sleep 0.3; test $n = 1 && exit 0' TERM; echo ready"
    started = supervisor.start("trainer", ["sh", "-c", f"{twice}; while :; do sleep 0.05; done"])
    until(lambda: supervisor.tail("trainer", 1) == ["ready"])
    for _ in range(3):
        os.kill(started.shim_pid, signal.SIGTERM)
        until(lambda: "heard 1" in supervisor.tail("trainer", 9) or supervisor.status("trainer").phase == "stopped")
    assert supervisor.wait("trainer", {"stopped"}, 10).exit_code == 0


def test_an_order_whose_controller_died_before_there_was_a_shim_is_lost_until_the_next_start(supervisor):
    supervisor.start("trainer", SLEEP)
    supervisor.stop("trainer")
    order(supervisor, generation=2)
    assert supervisor.status("trainer").phase == "lost"
    assert supervisor.start("trainer", SLEEP).phase == "running"


def test_a_flood_of_output_does_not_drown_a_stop(supervisor):
    supervisor.start("trainer", ["sh", "-c", "exec yes"])
    until(lambda: supervisor.tail("trainer", 1) == ["y"])
    assert supervisor.stop("trainer").exit_code == -signal.SIGTERM


def test_a_disk_that_takes_nothing_costs_records_but_the_service_comes_back_by_itself(supervisor):
    supervisor = Supervisor(supervisor.root, Policy(base_s=0.02, max_s=0.02, max_fails=1_000))
    first = supervisor.start("trainer", ["sh", "-c", "echo up; exec sleep 600"])
    until(lambda: supervisor.tail("trainer", 1) == ["up"])
    _, hard = resource.prlimit(first.shim_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(first.shim_pid, resource.RLIMIT_FSIZE, (0, hard))  # no file may grow
    supervisor.kill("trainer", signal.SIGKILL)
    until(lambda: supervisor.status("trainer").phase == "restarting")
    resource.prlimit(first.shim_pid, resource.RLIMIT_FSIZE, (hard, hard))
    second = supervisor.wait("trainer", {"running"}, 10)
    assert second.restarts >= 1
    assert second.shim_pid == first.shim_pid


def test_an_identity_is_read_whatever_the_process_is_called(tmp_path):
    odd = tmp_path / "a) Z (b 1 2"
    odd.symlink_to("/bin/sleep")
    with stranger(odd, "600") as process:
        who = until(lambda: "Z" in Path(f"/proc/{process.pid}/comm").read_text() and identity(process.pid))
        assert pid_of(who) == process.pid
        assert alive(who)
        process.kill()
        until(lambda: not alive(who))  # a zombie, until the line below
        assert wait_gone(who, 0.0)
        process.wait()
    assert not alive(who)
    assert identity(process.pid) is None


def test_a_signal_for_a_recycled_pid_reaches_nobody():
    with stranger(*SLEEP) as process:
        other = f"{process.pid}@{identity(1).partition('@')[2]}"
        assert not signal_exact(other, signal.SIGKILL)
        assert group(other) == []
        assert wait_gone(other, 0.0)
        assert group(identity(process.pid)) == [identity(process.pid)]
        assert not wait_gone(identity(process.pid), 0.0)
        assert signal_exact(identity(process.pid), signal.SIGKILL)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Supervision as on a system without /proc, pidfd, waitid and parent-death signal."""
    copy = tmp_path / "code" / "orchestration"
    copy.mkdir(parents=True)
    (copy / "__init__.py").touch()
    changed = []
    for file in FILES:
        text = file.read_text()
        for linux, other in (('LINUX = sys.platform == "linux"', "LINUX = False"), ('hasattr(os, "waitid")', "False")):
            changed += [linux] * text.count(linux)
            text = text.replace(linux, other)
        (copy / file.name).write_text(text)
    assert len(changed) == 2
    monkeypatch.setattr(processes, "ROOT", copy.parent)
    monkeypatch.setattr(processes, "LINUX", False)
    it = Supervisor(tmp_path / "services", Policy(base_s=0.02, grace_s=0.3))
    yield it
    it.stop_all()


def test_elsewhere_a_service_starts_restarts_and_stops(elsewhere):
    started = elsewhere.start("trainer", SLEEP)
    assert started.phase == "running"
    assert elsewhere.start("trainer", SLEEP) == started
    assert elsewhere.kill("trainer", signal.SIGKILL)
    until(lambda: elsewhere.status("trainer").restarts == 1)
    assert elsewhere.restart("trainer").generation == 2
    ended = elsewhere.stop("trainer")
    assert (ended.phase, ended.exit_code) == ("stopped", -signal.SIGTERM)


def test_elsewhere_a_lifeline_ends_the_child_of_a_killed_shim_even_a_deaf_one(elsewhere):
    started = elsewhere.start("trainer", DEAF)
    until(lambda: elsewhere.tail("trainer", 1) == ["ready"])
    child = identity(started.pid)
    os.kill(started.shim_pid, signal.SIGKILL)
    assert wait_gone(child, 10)
    assert elsewhere.wait("trainer", {"lost"}, 10).pid is None
    again = elsewhere.start("trainer", SLEEP)
    assert (again.phase, again.generation) == ("running", 2)
