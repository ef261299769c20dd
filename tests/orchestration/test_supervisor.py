"""Services are real processes here: started, killed, paused and raced for."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from domain.errors import Unavailable, UsageError
from orchestration.processes import alive, group, identity
from orchestration.supervisor import Policy, Supervisor
from tests.orchestration.scenes import DEAF_PARENT, PYTHON, SLEEP, control, signals, until


def test_what_was_never_started_is_absent(scene):
    assert scene.it.status("trainer").phase == "absent"
    assert scene.it.stop("trainer").phase == "absent"
    assert not scene.it.kill("trainer", signal.SIGKILL)
    assert scene.it.names() == []
    assert scene.it.spec("trainer") is None
    assert scene.it.tail("trainer", 5) == []
    with pytest.raises(UsageError, match="never started"):
        scene.it.restart("trainer")


@pytest.mark.parametrize("name", ["", "..", "a/b", "Trainer", "-x"])
def test_a_name_cannot_leave_the_root(scene, name):
    with pytest.raises(UsageError, match="not a service name"):
        scene.it.start(name, ["true"])


def test_a_started_service_runs_until_it_is_stopped(scene):
    started = scene.run()
    assert (started.phase, started.generation, started.restarts, started.exit_code) == ("running", 1, 0, None)
    assert started.pid in scene.living()
    assert abs(time.time_ns() - started.started_at) < 60e9
    stopped = scene.it.stop("trainer")
    assert (stopped.phase, stopped.reason, stopped.pid, stopped.shim_pid) == ("stopped", "requested", None, None)
    assert stopped.exit_code == -signal.SIGTERM
    assert scene.living() == []
    assert identity(started.shim_pid) is None
    assert scene.it.spec("trainer")["stop"]  # had we died before the signal, the shim would have found it
    assert not (scene.home() / "child").exists()  # the number may be another's one day
    assert scene.it.names() == ["trainer"]


def test_starting_again_with_the_same_specification_changes_nothing(scene):
    first = scene.run()
    assert scene.it.start("trainer", scene.command()) == first
    assert Supervisor(scene.root, Policy(grace_s=3)).start("trainer", scene.command()) == first


@pytest.mark.parametrize("change", [{"env": {"A": "1"}}, {"meta": {"config": "abc"}}, {"cwd": Path("/")}])
def test_starting_with_another_specification_is_a_new_generation(scene, change):
    first = scene.run()
    second = scene.it.start("trainer", scene.command(), **change)
    assert (second.phase, second.generation) == ("running", 2)
    assert second.pid != first.pid
    assert not identity(first.pid)
    assert second.shim_pid == first.shim_pid


def test_a_restart_keeps_what_it_does_not_change(scene):
    scene.it.start("trainer", scene.command(), env={"A": "1"}, meta={"config": "abc"})
    again = scene.it.restart("trainer", meta={"config": "def"})
    spec = scene.it.spec("trainer")
    assert (again.phase, again.generation) == ("running", 2)
    assert (spec["env"], spec["meta"], spec["argv"]) == ({"A": "1"}, {"config": "def"}, scene.command())
    assert scene.it.restart("trainer").generation == 3


def test_a_stopped_service_starts_as_a_new_generation(scene):
    scene.run()
    scene.it.stop("trainer")
    assert scene.it.restart("trainer").generation == 2
    scene.it.stop("trainer")
    assert scene.run().generation == 3
    until(lambda: len(scene.living()) == 1)


def test_a_killed_service_is_restarted_within_its_generation(scene):
    first = scene.run()
    assert scene.it.kill("trainer", signal.SIGKILL)
    until(lambda: len(scene.born()) == 2)
    second = scene.it.wait("trainer", {"running"}, 10)
    assert (second.generation, second.restarts, second.exit_code, second.reason) == (1, 1, -9, "signal SIGKILL")
    assert second.shim_pid == first.shim_pid
    assert scene.living() == [second.pid]


def test_when_the_shim_is_killed_its_service_dies_and_start_gives_exactly_one(scene):
    first = scene.run()
    os.kill(first.shim_pid, signal.SIGKILL)
    lost = scene.it.wait("trainer", {"lost"}, 10)
    assert (lost.pid, lost.shim_pid) == (None, None)
    assert scene.living() == []
    again = scene.run()
    assert (again.phase, again.generation) == ("running", 2)
    assert scene.living() == [again.pid]


def test_a_lost_service_can_be_stopped(scene):
    os.kill(scene.run().shim_pid, signal.SIGKILL)
    scene.it.wait("trainer", {"lost"}, 10)
    assert scene.it.stop("trainer").phase == "stopped"


@pytest.mark.parametrize("act", ["start", "restart", "stop"])
def test_an_orphan_is_seen_and_ended_before_anything_else(scene, act):
    scene.it = Supervisor(scene.root, Policy(grace_s=0.1))
    first = scene.run(what=DEAF_PARENT)
    family = group(identity(first.pid))
    os.kill(first.shim_pid, signal.SIGKILL)
    orphan = scene.it.wait("trainer", {"orphan"}, 10)
    assert (orphan.pid, orphan.shim_pid) == (first.pid, None)
    if act == "stop":
        assert scene.it.stop("trainer").phase == "stopped"
    else:
        again = scene.run() if act == "start" else scene.it.restart("trainer")
        assert (again.phase, again.generation) == ("running", 2)
    assert len(family) == 2
    assert not any(alive(who) for who in family)


def test_a_paused_orphan_is_ended_too(scene):
    first = scene.run()
    scene.pause(first.pid)
    os.kill(first.shim_pid, signal.SIGKILL)
    scene.it.wait("trainer", {"orphan"}, 10)
    assert scene.run().phase == "running"
    assert len(scene.living()) == 1


def test_of_eight_racing_controllers_one_starts_the_service(scene):
    code = "print(Supervisor(Path(sys.argv[1])).start('trainer', sys.argv[2:]))"
    racers = [control(code, scene.root, *scene.command(), stdout=subprocess.PIPE, text=True) for _ in range(8)]
    answers = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert len(set(answers)) == 1
    until(lambda: len(scene.born()) == 1)
    now = scene.it.status("trainer")
    assert (now.phase, now.generation) == ("running", 1)
    assert scene.living() == [now.pid]


def test_a_controller_killed_at_any_point_never_leaves_two_copies(scene):
    code = """
    supervisor = Supervisor(Path(sys.argv[1]))
    print("go", flush=True)
    while True:
        supervisor.start("trainer", sys.argv[2:])
        supervisor.restart("trainer")
        supervisor.stop("trainer")
    """
    for trial in range(6):
        controller = control(code, scene.root, *scene.command(), stdout=subprocess.PIPE)
        controller.stdout.readline()
        end = time.monotonic() + 0.03 + 0.037 * trial
        while time.monotonic() < end:
            assert len(scene.living()) <= 1
        controller.kill()
        controller.communicate()
        now = scene.it.start("trainer", scene.command())
        assert now.phase == "running"
        until(lambda pid=now.pid: scene.living() == [pid])


def test_the_death_of_the_callers_process_group_leaves_the_service_running(scene):
    code = """
    import time
    print(Supervisor(Path(sys.argv[1])).start("trainer", sys.argv[2:]).pid, flush=True)
    time.sleep(600)
    """
    caller = control(code, scene.root, *scene.command(), stdout=subprocess.PIPE, start_new_session=True)
    pid = int(caller.stdout.readline())
    os.killpg(caller.pid, signal.SIGKILL)
    caller.communicate()
    now = scene.it.status("trainer")
    assert (now.phase, now.pid) == ("running", pid)
    assert Path(f"/proc/{now.shim_pid}/stat").read_text().rpartition(")")[2].split()[1] != str(caller.pid)


def test_a_caller_deaf_to_signals_does_not_make_its_service_deaf(scene):
    code = """
    import signal
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    Supervisor(Path(sys.argv[1])).start("trainer", ["sleep", "600"])
    """
    assert control(code, scene.root).wait(30) == 0
    now = scene.it.status("trainer")
    assert signals(now.pid, "SigBlk") == signals(now.pid, "SigIgn") == signals(now.shim_pid, "SigBlk") == 0
    assert scene.it.stop("trainer").exit_code == -signal.SIGTERM


def test_a_service_gets_the_environment_of_its_specification_and_nothing_of_the_caller(scene, monkeypatch):
    for name in ("DAGSTER_HOME", "TIDEMILL_HOME", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "HOMEPAGE"):
        monkeypatch.setenv(name, "leaked")
    for name in [name for name in os.environ if name.startswith(("LANG", "LC_", "TMPDIR", "TZ"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("HOME", "/root\udcff")  # a byte that is not UTF-8
    given = {"TIDEMILL_KAFKA": "größe", "PATH": "/usr/bin:/bin"}
    started = scene.it.start("trainer", ["sleep", "600"], env=given)
    seen = Path(f"/proc/{started.pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    wanted = {"HOME": "/root\udcff", "LC_TIME": "C", **given}
    assert sorted(seen) == sorted(os.fsencode(f"{name}={value}") for name, value in wanted.items())
    assert (scene.home().stat().st_mode & 0o777) == 0o700  # the specification may hold secrets


def test_the_working_directory_is_the_home_unless_said_otherwise(scene, tmp_path):
    where = [*PYTHON, "import os; print(os.getcwd())"]
    for cwd, seen in ((None, scene.home("ingest")), (tmp_path, tmp_path)):
        scene.it.start("ingest", where, cwd=cwd)
        scene.it.wait("ingest", {"done"}, 10)
        assert scene.it.tail("ingest", 1) == [str(seen)]


def test_a_chatty_service_cannot_fill_the_disk(scene):
    scene.it = Supervisor(scene.root, Policy(log_bytes=100_000, log_files=3))
    chatter = "print(''.join(f'line {i:06}\\n' for i in range(40_000)) + 'end')"
    scene.it.start("trainer", scene.command(chatter))
    scene.it.wait("trainer", {"done"}, 20)
    logs = sorted(path.name for path in scene.home().glob("log*"))
    assert logs == ["log", "log.1", "log.2"]
    assert all((scene.home() / name).stat().st_size <= 200_000 for name in logs)
    kept = "".join((scene.home() / name).read_text() for name in reversed(logs)).splitlines()
    assert kept == [*(f"line {i:06}" for i in range(40_001 - len(kept), 40_000)), "end"]
    assert scene.it.tail("trainer", 12_000) == kept[-12_000:]
    assert scene.it.tail("trainer", 2) == ["line 039999", "end"]
    assert scene.it.tail("trainer", 0) == []


def test_recorded_pids_that_now_belong_to_others_are_left_alone(scene):
    scene.run()
    scene.it.stop("trainer")
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        forged = f"{stranger.pid}@{identity(1).partition('@')[2]}"
        state = json.loads((scene.home() / "state.json").read_text())
        (scene.home() / "state.json").write_text(json.dumps({**state, "phase": "running", "shim": forged}))
        (scene.home() / "child").write_text(forged)
        assert scene.it.status("trainer").phase == "lost"
        assert not scene.it.kill("trainer", signal.SIGKILL)
        assert scene.it.stop("trainer").phase == "stopped"
        (scene.home() / "child").write_text(forged)
        scene.run()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_all_are_stopped_and_the_broker_last(scene, tmp_path):
    order = tmp_path / "order"
    end = "signal.signal(signal.SIGTERM, lambda *_: (open(%r, 'a').write('%s\\n'), sys.exit(0))); "
    for name in ("broker", "ingest", "lander", "trainer"):
        scene.run(name, what=end % (str(order), name) + SLEEP)
    statuses = scene.it.stop_all(last=("lander", "absent", "broker"))
    assert {status.name: status.phase for status in statuses} == dict.fromkeys(scene.it.names(), "stopped")
    assert sorted(order.read_text().split()[:2]) == ["ingest", "trainer"]
    assert order.read_text().split()[2:] == ["lander", "broker"]
    assert scene.living() == []


def test_waiting_ends_with_the_phase_it_found_instead(scene):
    scene.it.start("trainer", ["/no/such/command"])
    with pytest.raises(Unavailable, match=r"trainer is not running after 0\.1 s: failed, cannot execute"):
        scene.it.wait("trainer", {"running"}, 0.1)


def test_a_service_whose_home_is_deleted_ends_and_leaves_its_successor_alone(scene):
    first = scene.run()
    shutil.rmtree(scene.home())
    second = scene.run()
    assert (second.phase, second.generation) == ("running", 1)
    until(lambda: scene.living() == [second.pid] and not identity(first.shim_pid))
    assert scene.it.status("trainer") == second
