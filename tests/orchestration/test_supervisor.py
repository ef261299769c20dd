"""Services are real processes here: started, killed, paused and raced for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest

from domain.errors import Unavailable, UsageError
from orchestration.processes import group, wait_gone
from orchestration.shim import alive, identity
from orchestration.supervisor import Policy, Supervisor

ROOT = Path(__file__).parents[2]
QUICK = Policy(base_s=0.02, grace_s=10.0)
PYTHON = [sys.executable, "-I", "-S", "-c"]

# Appends its pid to the file of its first argument, then does what the second says.
LIFE = """
import os, signal, subprocess, sys, time
def enter():
    with open(sys.argv[1], "a") as births:
        births.write(f"{os.getpid()} {time.monotonic_ns()}\\n")
"""
SLEEP = "enter(); time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); enter(); time.sleep(600)"
PARENT = "subprocess.Popen(['sleep', '600']); " + SLEEP
DEAF_PARENT = (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '600']); enter(); time.sleep(600)"
)


class Scene:
    """One supervisor, and a record of every process that its services ever were."""

    def __init__(self, root, policy=QUICK):
        self.root, self.births = root / "services", root / "births"
        self.it = Supervisor(self.root, policy)

    def command(self, what=SLEEP, births=None):
        return [*PYTHON, LIFE + what, str(births or self.births)]

    def born(self):
        lines = self.births.read_text().splitlines() if self.births.exists() else []
        return [int(line.split()[0]) for line in lines]

    def born_at(self):
        return [int(line.split()[1]) for line in self.births.read_text().splitlines()]

    def living(self):
        return [pid for pid in self.born() if identity(pid)]

    def run(self, name="trainer", what=SLEEP):
        """Start and wait until the service has entered."""
        before = len(self.born())
        status = self.it.start(name, self.command(what))
        until(lambda: len(self.born()) > before)
        return status

    def pause(self, pid):
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")

    def home(self, name="trainer"):
        return self.root / name


@pytest.fixture
def scene(tmp_path):
    with_processes = Scene(tmp_path)
    yield with_processes
    families = [child for home in with_processes.root.glob("*/child") if (child := home.read_text())]
    with_processes.it.stop_all()
    assert with_processes.living() == []
    assert [who for family in families for who in group(family)] == []


def until(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return result


def signals(pid, which):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith(which))
    # Signals 32 and 33 are the C library's own: no program can change them, and some parents leave them ignored.
    return mask & sum(1 << (number - 1) for number in signal.valid_signals())


def control(code, *arguments, **options):
    """Run a controller in a process of its own."""
    head = "import sys\nfrom pathlib import Path\nfrom orchestration.supervisor import Policy, Supervisor\n"
    argv = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


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


def test_a_crash_loop_is_given_up_until_a_person_acts(scene):
    scene.it = Supervisor(scene.root, Policy(base_s=0.1, max_fails=3))
    crash = scene.command("enter(); sys.exit('boom')")
    scene.it.start("trainer", crash)
    given_up = scene.it.wait("trainer", {"crash_loop"}, 20)
    assert (given_up.restarts, given_up.exit_code, given_up.detail) == (3, 1, "boom")
    assert given_up.reason == "exit code 1"
    assert (given_up.pid, given_up.shim_pid) == (None, None)
    born = scene.born_at()
    assert len(born) == 4
    gaps = [(later - earlier) / 1e9 for earlier, later in pairwise(born)]
    assert all(gap >= back_off for gap, back_off in zip(gaps, [0.1, 0.2, 0.4], strict=True)), gaps
    assert scene.it.stop("trainer").phase == "crash_loop"
    assert scene.it.restart("trainer", argv=scene.command()).phase == "running"
    assert scene.it.status("trainer").restarts == 0


def test_a_start_by_hand_clears_a_crash_loop(scene):
    scene.it = Supervisor(scene.root, Policy(base_s=0.01, max_fails=0))
    crash = scene.command("enter(); sys.exit(1)")
    scene.it.start("trainer", crash)
    scene.it.wait("trainer", {"crash_loop"}, 10)
    assert scene.it.start("trainer", crash).generation == 2
    assert scene.it.wait("trainer", {"crash_loop"}, 10).generation == 2
    assert len(scene.born()) == 2


def test_a_stable_life_makes_the_next_crash_the_first_again(scene):
    scene.it = Supervisor(scene.root, Policy(base_s=0.01, max_fails=1, stable_s=0.0))
    scene.it.start("trainer", scene.command("enter(); sys.exit(1)"))
    until(lambda: len(scene.born()) >= 5)
    assert scene.it.status("trainer").phase in {"backoff", "running", "restarting"}


def test_a_service_in_back_off_can_be_stopped_and_restarted_at_once(scene):
    scene.it = Supervisor(scene.root, Policy(base_s=500, max_s=500, max_fails=1))
    scene.it.start("trainer", scene.command("enter(); sys.exit(1)"))
    scene.it.wait("trainer", {"backoff"}, 10)
    assert scene.it.restart("trainer", argv=scene.command()).phase == "running"
    scene.it.restart("trainer", argv=["false"])
    scene.it.wait("trainer", {"backoff"}, 10)
    assert scene.it.stop("trainer").phase == "stopped"


def test_exit_code_0_is_done_and_stays_done(scene):
    scene.it.start("ingest", scene.command("enter(); print('the end')"))
    done = scene.it.wait("ingest", {"done"}, 10)
    assert (done.exit_code, done.restarts, done.detail, done.shim_pid) == (0, 0, "the end", None)
    assert scene.it.stop("ingest").phase == "done"
    assert len(scene.born()) == 1


def test_exit_code_0_is_a_crash_where_the_policy_says_so(scene):
    scene.it = Supervisor(scene.root, Policy(base_s=0.01, max_fails=1, zero_is_done=False))
    scene.it.start("ingest", scene.command("enter()"))
    assert scene.it.wait("ingest", {"crash_loop"}, 10).exit_code == 0


def test_exit_code_2_is_a_persons_mistake_and_names_it(scene):
    scene.it.start("trainer", scene.command("enter(); print('tidemill: no such source', file=sys.stderr); sys.exit(2)"))
    failed = scene.it.wait("trainer", {"failed"}, 10)
    assert (failed.exit_code, failed.restarts, failed.detail) == (2, 0, "tidemill: no such source")
    assert len(scene.born()) == 1


def test_a_command_that_cannot_be_executed_has_failed(scene):
    failed = scene.it.start("trainer", ["/no/such/command"])
    assert (failed.phase, failed.reason, failed.shim_pid) == ("failed", "cannot execute", None)
    assert "/no/such/command" in failed.detail
    assert scene.run().phase == "running"
    failed = scene.it.restart("trainer", argv=["/no/such/command"])
    assert (failed.phase, failed.generation) == ("failed", 3)
    assert scene.living() == []


def test_a_service_deaf_to_sigterm_is_killed_with_its_children_after_the_grace(scene):
    first = scene.run(what=DEAF_PARENT)
    family = group(identity(first.pid))
    before = time.monotonic()
    stopped = scene.it.stop("trainer", grace_s=0.2)
    assert time.monotonic() - before >= 0.2
    assert (stopped.phase, stopped.exit_code) == ("stopped", -signal.SIGKILL)
    assert len(family) == 2
    assert not any(alive(who) for who in family)


def test_what_a_dead_service_leaves_in_its_group_is_killed(scene):
    first = scene.run(what=PARENT)
    family = group(identity(first.pid))
    assert len(family) == 2
    scene.it.kill("trainer", signal.SIGKILL)
    assert all(wait_gone(who, 10) for who in family)
    scene.it.wait("trainer", {"running"}, 10)


@pytest.mark.parametrize("act", ["restart", "stop"])
def test_a_paused_service_hears_sigterm(scene, act):
    first = scene.run()
    scene.pause(first.pid)
    assert getattr(scene.it, act)("trainer").phase in {"running", "stopped"}
    assert not identity(first.pid)
    if act == "stop":
        assert scene.it.status("trainer").exit_code == -signal.SIGTERM


def test_a_paused_and_deaf_service_is_restarted_after_the_grace(scene):
    scene.it = Supervisor(scene.root, Policy(grace_s=0.1))
    first = scene.run(what=DEAF)
    scene.pause(first.pid)
    second = scene.it.restart("trainer", argv=scene.command())
    assert (second.phase, second.generation) == ("running", 2)
    assert not identity(first.pid)


def test_a_paused_shim_is_woken(scene):
    first = scene.run()
    scene.pause(first.shim_pid)
    assert scene.it.restart("trainer").generation == 2
    scene.pause(first.shim_pid)
    assert scene.it.stop("trainer").phase == "stopped"


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
