"""How services end: they crash, finish, are deaf or paused, and leave nothing behind."""

import signal
import time
from itertools import pairwise

import pytest

from orchestration.processes import alive, group, identity, wait_gone
from orchestration.supervisor import Policy, Supervisor
from tests.orchestration.scenes import DEAF, DEAF_PARENT, PARENT, until


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


@pytest.mark.parametrize(("most", "phase"), [(1, "crash_loop"), (0, "crashed")])
def test_what_crashed_for_good_starts_again_by_hand(scene, most, phase):
    scene.it = Supervisor(scene.root, Policy(base_s=0.01, max_fails=most))
    crash = scene.command("enter(); sys.exit(1)")
    scene.it.start("trainer", crash)
    scene.it.wait("trainer", {phase}, 10)
    assert scene.it.start("trainer", crash).generation == 2
    assert scene.it.wait("trainer", {phase}, 10).generation == 2
    assert len(scene.born()) == 2 * (most + 1)


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


def test_a_killed_service_whose_command_is_gone_has_failed_and_says_so(scene, tmp_path):
    command = tmp_path / "command"
    command.write_text('#!/bin/sh\necho well\nrm "$0"\nkill -9 $$\n')
    command.chmod(0o700)
    scene.it.start("trainer", [str(command)])
    failed = scene.it.wait("trainer", {"failed"}, 20)
    assert (failed.reason, failed.exit_code) == ("cannot execute", None)
    assert str(command) in failed.last_words


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
