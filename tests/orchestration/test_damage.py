"""A home whose records are empty, cut off or of something else: seen in one line, stopped whole, started again."""

import os
import signal

import pytest

from orchestration.processes import identity
from orchestration.supervisor import Supervisor
from orchestration.up import down
from tests.orchestration.scenes import QUICK, until

DAMAGES = {"empty": b"", "cut off": b'{"argv": ["sl', "garbage": b"\xff\x00\xfe", "another's": b"[1, 2]", "bare": b"{}"}
RECORDS = ("spec.json", "state.json", "child")


@pytest.fixture(params=DAMAGES)
def damage(request):
    return DAMAGES[request.param]


@pytest.mark.parametrize("record", RECORDS)
def test_a_damaged_record_is_one_line_of_its_service_and_all_is_stopped(scene, record, damage, capsys, monkeypatch):
    for name in ("broker", "trainer"):
        scene.run(name)
    (scene.home("broker") / record).write_bytes(damage)
    seen = scene.it.status("broker")
    if record == "spec.json":
        assert (seen.phase, seen.pid) == ("damaged", identity(seen.pid) and seen.pid)
        assert str(scene.home("broker")) in seen.reason
        assert "spec.json is damaged" in seen.reason
        assert "\n" not in seen.reason
    assert scene.it.status("trainer").phase == "running"
    monkeypatch.setenv("TIDEMILL_HOME", str(scene.root.parent))
    down()
    assert capsys.readouterr().out == "stopped: broker, trainer\n"
    assert scene.living() == []
    assert {scene.it.status(name).phase for name in scene.it.names()} == {"stopped"}


@pytest.mark.parametrize("record", ["state.json", "child"])
def test_the_shim_writes_its_own_record_again(scene, record):
    first = scene.run()
    (scene.home() / record).write_bytes(b"")
    until(lambda: scene.it.status("trainer") == first)


def test_a_shim_whose_specification_is_damaged_goes_on_with_the_last_good_one(scene):
    first = scene.run()
    (scene.home() / "spec.json").write_bytes(b"")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: len(scene.born()) == 2)
    assert scene.living() == scene.born()[1:]
    again = scene.run()
    assert (again.phase, again.generation) == ("running", 2)
    assert scene.living() == [again.pid]


def test_a_damaged_home_can_be_started_again(scene, damage):
    first = scene.run()
    for record in RECORDS:
        (scene.home() / record).write_bytes(damage)
    again = scene.run()
    assert again.phase == "running"
    assert scene.living() == [again.pid] != [first.pid]


def test_nothing_is_left_of_a_home_whose_every_record_is_gone_and_whose_shim_is_frozen(scene):
    first = scene.run()
    scene.pause(first.shim_pid)
    for record in RECORDS:
        (scene.home() / record).unlink()
    assert scene.it.names() == ["trainer"]
    assert scene.it.stop("trainer").phase == "stopped"
    assert scene.living() == []
    assert identity(first.shim_pid) is None


def test_a_damaged_service_is_no_reason_not_to_look_at_the_others(scene):
    scene.run()
    (scene.home() / "state.json").write_bytes(b"")
    assert Supervisor(scene.root, QUICK).tail("trainer", 1) == []
    assert scene.it.spec("trainer") is not None
