"""The key: made once whoever is first, read by this user alone, and refused in one line where others can read it."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from domain.config import Places
from domain.errors import UsageError
from warehouse.keys import model_key

RACER = """
import sys
from pathlib import Path
from domain.config import Places
from warehouse.keys import model_key
print("ready", flush=True)
sys.stdin.readline()
print(model_key(Places(home=Path(sys.argv[1]))).decode(), flush=True)
"""


def test_a_key_is_made_once_for_this_user_alone(places):
    key = model_key(places)
    path = places.home / "model.key"
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == key.decode() + "\n"
    assert model_key(places) == key
    assert [p.name for p in places.home.iterdir()] == ["model.key"]


def test_two_homes_have_two_keys(tmp_path):
    assert model_key(Places(home=tmp_path / "a")) != model_key(Places(home=tmp_path / "b"))


def test_a_key_of_the_environment_wins_and_makes_no_file(places):
    given = places.model_copy(update={"model_key": "0123456789" * 4})
    assert model_key(given) == b"0123456789" * 4
    assert not places.home.exists()
    assert "0123456789" not in repr(given)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_reach_is_refused(places, mode):
    model_key(places)
    path = places.home / "model.key"
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"model\.key has mode {mode:04o}.*chmod 600") as refusal:
        model_key(places)
    assert "\n" not in str(refusal.value)


def test_a_key_that_is_too_short_is_refused(places):
    with pytest.raises(UsageError, match="TIDEMILL_MODEL_KEY has 5 characters"):
        model_key(places.model_copy(update={"model_key": "short"}))
    model_key(places)
    (places.home / "model.key").write_text("")
    with pytest.raises(UsageError, match=r"model\.key has 0 characters"):
        model_key(places)


def test_a_key_that_is_no_text_or_no_file_is_refused(places):
    model_key(places)
    (places.home / "model.key").write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match="restore the key"):
        model_key(places)
    (places.home / "model.key").unlink()
    (places.home / "model.key").mkdir(mode=0o700)
    with pytest.raises(UsageError, match="restore the key"):
        model_key(places)


def test_threads_that_race_to_be_first_get_one_key(tmp_path):
    for k in range(30):
        home = tmp_path / str(k)
        barrier, keys = threading.Barrier(4), []

        def race(home=home, barrier=barrier, keys=keys):
            barrier.wait()
            keys.append(model_key(Places(home=home)))

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 4
        assert len(set(keys)) == 1
        assert [p.name for p in home.iterdir()] == ["model.key"]


@pytest.mark.process
def test_processes_that_race_to_be_first_get_one_key(tmp_path):
    root = Path(__file__).parents[2]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "home")],
            cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=30)[0] for racer in racers]
    assert len(set(said)) == 1
    assert len(said[0].strip()) == 64
