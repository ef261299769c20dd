"""What the shim ends although it runs: a process that is stopped, and one whose pulse does not go."""

import os
import signal
import time
from pathlib import Path

import pytest

from orchestration import vitals
from orchestration.policy import Policy
from orchestration.processes import alive, frozen, identity
from orchestration.pulse import pulse
from orchestration.supervisor import Supervisor
from orchestration.vitals import Vitals
from tests.orchestration.scenes import SLEEP, until

# Touches its pulse every 50 ms until the file `quiet` is there.
BEATING = """
pulse = os.environ["TIDEMILL_PULSE"]
enter()
while True:
    if not os.path.exists(os.path.join(os.path.dirname(pulse), "quiet")):
        os.utime(pulse)
    time.sleep(0.05)
"""


def with_policy(scene, **more):
    scene.it = Supervisor(scene.root, Policy(base_s=0.02, **more))


def test_a_frozen_service_is_seen_at_once_and_ended_and_restarted_by_its_shim(scene):
    with_policy(scene, frozen_s=2.0)
    first = scene.run()
    scene.pause(first.pid)
    assert scene.it.status("trainer").phase == "frozen"
    until(lambda: len(scene.born()) == 2, 60)
    second = scene.it.wait("trainer", {"running"}, 60)
    assert second.reason.startswith("frozen: stopped for ")
    assert (second.generation, second.restarts, second.shim_pid) == (1, 1, first.shim_pid)
    assert scene.living() == [second.pid]


def test_a_frozen_service_that_nothing_restarts_is_a_crash_with_a_reason(scene):
    with_policy(scene, frozen_s=2.0, max_fails=0)
    scene.pause(scene.run().pid)
    ended = scene.it.wait("trainer", {"crashed"}, 60)
    assert (ended.exit_code, ended.reason[:6]) == (-signal.SIGKILL, "frozen")


def test_a_frozen_process_below_a_service_is_ended_alone_wherever_its_group_is(scene):
    with_policy(scene, frozen_s=2.0)
    below = (
        "subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import subprocess, time; "
        'subprocess.Popen(["sleep", "600"], start_new_session=True); time.sleep(600)\']); '
    )
    first = scene.run(what=below + SLEEP)
    family = until(lambda: len(found := vitals.descendants(first.pid)) == 2 and found)
    nurse, sleeper = family
    os.kill(int(sleeper.partition("@")[0]), signal.SIGSTOP)
    until(lambda: not alive(sleeper), 60)
    assert alive(nurse)
    assert scene.it.status("trainer") == first


def test_a_service_that_may_be_paused_goes_on_when_it_is_continued(scene):
    with_policy(scene, frozen_s=0.0)
    first = scene.run()
    scene.pause(first.pid)
    looked = time.monotonic()
    until(lambda: time.monotonic() - looked > 5.0)  # two looks of the shim
    assert scene.it.status("trainer").phase == "frozen"
    os.kill(first.pid, signal.SIGCONT)
    assert scene.it.wait("trainer", {"running"}, 60) == first


def test_a_paused_shim_does_not_matter_to_a_running_service(scene):
    first = scene.run()
    scene.pause(first.shim_pid)
    assert scene.it.status("trainer") == first
    os.kill(first.shim_pid, signal.SIGCONT)


def test_a_service_whose_pulse_stops_is_ended_and_restarted(scene):
    with_policy(scene, pulse_s=4.0)
    scene.run(what=BEATING)
    pulse_file = scene.home() / "pulse"
    first = pulse_file.stat().st_mtime_ns
    until(lambda: pulse_file.stat().st_mtime_ns > first)
    until(lambda: Path(scene.home() / "quiet").touch() is None and len(scene.born()) == 2, 60)
    second = scene.it.wait("trainer", {"running"}, 60)
    assert second.reason.startswith("hung: no pulse for ")
    assert second.exit_code == -signal.SIGKILL


@pytest.fixture
def process(tmp_path, monkeypatch):
    """The vitals of this very process, whose looks are some seconds apart."""
    now = [1_000.0]
    monkeypatch.setattr(vitals.time, "monotonic", lambda: now[0])
    beat = tmp_path / "pulse"
    beat.touch()
    it = Vitals(tmp_path, os.getpid(), {"pulse_s": 30.0, "frozen_s": 10.0})

    def failing(passed):
        now[0] += passed
        return it.failing()

    return failing, beat


def test_a_clock_that_jumps_kills_nothing_and_hides_nothing(process):
    failing, beat = process
    for hour in (0, 3_600, -3_600, 0):
        os.utime(beat, (1e9 + hour, 1e9 + hour))  # a pulse by a wall clock that jumped
        assert [failing(2.0) for _ in range(14)] == [""] * 14
    assert [failing(2.0) for _ in range(2)][-1] == "hung: no pulse for 30 s"


def test_a_machine_that_slept_kills_nothing(process):
    failing, beat = process
    beat.touch()
    os.utime(beat, (1e9, 1e9))
    assert failing(2.0) == ""
    assert failing(86_400.0) == ""
    assert failing(2.0) == ""


def test_a_process_has_two_minutes_to_its_first_pulse(process):
    failing, _ = process
    assert [failing(2.0) for _ in range(59)] == [""] * 59
    assert failing(2.0) == "hung: no pulse for 120 s"


def test_a_pulse_file_that_is_lost_is_not_a_pulse_that_stopped(process):
    failing, beat = process
    beat.unlink()
    assert [failing(2.0) for _ in range(90)] == [""] * 90


def test_what_a_debugger_holds_is_not_frozen():
    assert not frozen(identity(os.getpid()))
    assert not frozen("")
    assert not frozen("garbage")


def test_a_process_that_is_not_watched_has_no_pulse_to_show(monkeypatch, tmp_path):
    monkeypatch.delenv("TIDEMILL_PULSE", raising=False)
    pulse()()
    monkeypatch.setenv("TIDEMILL_PULSE", str(tmp_path / "pulse"))
    pulse()()
    assert (tmp_path / "pulse").exists()
    monkeypatch.setenv("TIDEMILL_PULSE", str(tmp_path / "no" / "such" / "place"))
    pulse()()
