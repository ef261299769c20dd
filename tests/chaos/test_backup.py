"""A backup is taken of a mill that runs, restored elsewhere, and goes on as if nothing had happened."""

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from domain.config import Places
from domain.errors import BadState, UsageError
from orchestration import backup as backing
from orchestration.backup import backup
from orchestration.chaos import KEPT, at_home, paced
from orchestration.differences import compare
from orchestration.reading_back import read_back
from orchestration.replay import Replay
from orchestration.restore import restore
from orchestration.saved import MANIFEST
from tests.chaos import test_disk_full
from tests.chaos.conftest import elsewhere

disk = test_disk_full.disk

ROOT = Path(__file__).parents[2]
HALF_WAY = 100
"""Examples learned in the stream when the backup is taken."""


def tidemill(places, *args):
    """Run the command on a home."""
    env = {"TIDEMILL_HOME": str(places.home), "TIDEMILL_CONFIG": str(places.config)}
    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *map(str, args)],
        env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


class GoneOn(Replay):
    """A replay whose history and first models are in its home already."""

    def _history(self, control, bar):
        """Nothing is to be made."""


@pytest.fixture(scope="module")
def taken(planned, undisturbed, tmp_path_factory):
    """A backup that was taken in mid-stream, what the command answered, and the mill that went on meanwhile."""
    root = tmp_path_factory.mktemp("backup")
    plan = paced(at_home(planned, root / "running"), 15.0)
    base = undisturbed[1].learned - undisturbed[1].streamed["examples"]
    said = []

    def act(deployment, beats):
        learned = max((b.detail.get("n_learned", 0) for b in beats.beats() if b.service == "trainer"), default=0)
        if not said and learned - base >= HALF_WAY:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as answer:
                patch.setenv("TIDEMILL_HOME", str(deployment.places.home))
                patch.setenv("TIDEMILL_CONFIG", str(deployment.places.config))
                backup(root / "saved")  # in this process: the command takes seconds to begin
            said.append(answer.getvalue())
        return not said

    Replay(plan, on_tick=act, policy=KEPT, give_up=sys.maxsize).run()
    return root / "saved", said[0], plan


def test_a_backup_says_what_it_holds_and_is_for_this_user_alone(taken):
    saved, said, _plan = taken
    assert "AAA-USD: version " in said
    assert "it holds model.key, which signs versions: keep it as you keep secrets" in said
    modes = {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (saved, *saved.rglob("*")) if path.is_dir()} == {0o700}
    held = json.loads((saved / MANIFEST).read_text())["manifest"]["held"]
    assert held["damaged"] == []
    assert held["rows"]["bars"] > 0


def test_the_mill_that_was_backed_up_noticed_nothing(taken, undisturbed):
    _saved, _said, plan = taken
    assert compare(undisturbed[0].places, plan.places, plan.project).differences == []
    assert not (plan.places.home / ".backup").exists()


def test_a_restored_mill_goes_on_bit_identically(taken, undisturbed, tmp_path):
    saved, _said, plan = taken
    gone_on = elsewhere(plan, home=tmp_path / "elsewhere")
    done = tidemill(gone_on.places, "restore", saved)
    assert done.returncode == 0, done.stderr
    calm, first = undisturbed
    held = json.loads((saved / MANIFEST).read_text())["manifest"]["held"]
    assert 0 < sum(newest["n_learned"] for newest in held["lines"].values()) < first.learned
    report = GoneOn(gone_on, policy=KEPT, give_up=sys.maxsize).run()
    verdict = compare(calm.places, gone_on.places, calm.project)
    assert verdict.differences == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.answers == first.predictions
    assert verdict.learned == first.learned == report.learned
    assert all(one == other for one, other in verdict.digests.values())


PARTS = {
    "manifest": "manifest.json",
    "configuration of then": "tidemill.toml",
    "control database": "home/control.sqlite",
    "lake's catalog": "home/lake/catalog.sqlite",
    "rows": "home/lake/data/main/bars/*/*.parquet",
    "version": "home/models/*/*.safetensors",
    "key": "home/model.key",
    "records": "home/broker/topics/features.*/0/*.log",
    "names of the logs": "home/broker/catalog.json",
    "groups' offsets": "home/broker/offsets.log",
    "featurizer's state": "home/state/featurizer/*.safetensors",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_byte_is_refused_by_the_name_of_its_file(part, taken, tmp_path, monkeypatch):
    saved, _said, _plan = taken
    path = min(saved.glob(PARTS[part]))
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    try:
        with pytest.raises(BadState, match=re.escape(f"{path} is damaged")):
            restore(saved)
    finally:
        path.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused_by_its_name(taken, tmp_path, monkeypatch):
    saved, _said, _plan = taken
    path = min(saved.glob(PARTS["rows"]))
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(BadState, match=re.escape(f"{path} is missing")):
            restore(saved)
    finally:
        path.with_suffix(".away").rename(path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_restored_over_a_home(taken, tmp_path):
    saved, _said, plan = taken
    home = tmp_path / "home"
    home.mkdir()
    (home / "anything").touch()
    done = tidemill(elsewhere(plan, home=home).places, "restore", saved)
    assert done.returncode == 2
    assert done.stderr.startswith(f"tidemill: {home} holds a home already, and nothing is restored over one")
    assert f"mv {home} {home}.lost" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in home.iterdir()] == ["anything"]


def test_a_backup_that_was_killed_is_not_a_backup(taken, tmp_path, monkeypatch):
    _saved, _said, plan = taken
    part, home = tmp_path / "part", plan.places.home
    env = {**os.environ, "TIDEMILL_HOME": str(home), "TIDEMILL_CONFIG": str(plan.places.config)}
    running = subprocess.Popen([sys.executable, "-m", "orchestration.cli", "backup", part], env=env, cwd=ROOT)
    try:
        until = time.monotonic() + 120
        while not (part / "home" / "control.sqlite").exists():
            assert time.monotonic() < until
            assert running.poll() is None
    finally:
        running.kill()
        running.wait()
    assert not (part / MANIFEST).exists()
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "fresh"))
    with pytest.raises(UsageError, match=f"{part} is not a backup: it has no {MANIFEST}"):
        restore(part)
    assert not (tmp_path / "fresh").exists()
    monkeypatch.setenv("TIDEMILL_HOME", str(home))
    with pytest.raises(UsageError, match=f"{part} is not empty, and without {MANIFEST} it is not a backup"):
        backup(part)
    backup(tmp_path / "whole")
    assert not (home / ".backup").exists()


def test_a_log_that_ends_before_what_a_version_has_read_of_it_does_not_read_back(taken, tmp_path):
    saved, _said, plan = taken
    home = shutil.copytree(saved / "home", tmp_path / "home")
    os.truncate(max(home.glob("broker/topics/features.*/0/*.log")), 0)
    words = "version [0-9]+ of recorded:AAA-USD stands at [0-9]+ of features/0, but the copied log ends at 0"
    with pytest.raises(BadState, match=words):
        read_back(plan.places, home)


def test_a_full_disk_leaves_nothing_that_looks_whole(taken, disk):
    _saved, _said, plan = taken
    disk.fill()
    os.truncate(disk.ballast, disk.ballast.stat().st_size - 2_000_000)  # room for the databases, not for the rows
    done = tidemill(plan.places, "backup", disk.path / "saved")
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("tidemill: ")]
    assert "make room on its disk and begin again" in line
    assert "Traceback" not in done.stderr
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]


def test_a_run_of_dagster_that_is_deleted_meanwhile_is_left_out(tmp_path, monkeypatch):
    places = Places(home=tmp_path / "home")
    folder = places.home / "dagster" / "history" / "runs"
    folder.mkdir(parents=True)
    for name in ("gone.db", "kept.db"):
        with contextlib.closing(sqlite3.connect(folder / name)) as database:
            database.execute("CREATE TABLE t (x)")
    copy = backing.copy_database

    def deleted(path, target):
        if path.name == "gone.db":
            path.unlink()
        copy(path, target)

    monkeypatch.setattr(backing, "copy_database", deleted)
    backing._copy_dagster(places, tmp_path / "copy", SimpleNamespace(say=print))
    assert [path.name for path in (tmp_path / "copy").rglob("*.db")] == ["kept.db"]
