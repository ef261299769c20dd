"""A home is its owner's alone, and a process that gets no memory ends in one line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from domain.config import Project
from domain.errors import UsageError
from domain.market import Market
from orchestration import privacy
from orchestration.cli import SHORT_OF_MEMORY
from orchestration.planned import as_toml
from orchestration.privacy import keep_private

ROOT = Path(__file__).parents[2]


def modes(home):
    return {str(p.relative_to(home)): stat.S_IMODE(p.lstat().st_mode) for p in (home, *home.rglob("*"))}


@pytest.fixture(params=[0o000, 0o022])
def umask(request):
    before = os.umask(request.param)
    try:
        yield request.param
    finally:
        os.umask(before)


def test_a_new_home_is_made_for_its_user_alone(tmp_path, umask):
    keep_private(tmp_path / "home")
    assert modes(tmp_path / "home") == {".": 0o700}


def test_an_open_home_is_closed_with_all_that_is_in_it_and_links_lead_nowhere(tmp_path, umask, capsys):
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "models" / "a").mkdir(parents=True)
    home.chmod(0o755)
    (home / "models" / "a" / "1.safetensors").write_bytes(b"1")
    (home / "control.sqlite").write_bytes(b"2")
    (home / "control.sqlite").chmod(0o644)
    (home / "run").write_bytes(b"3")
    (home / "run").chmod(0o755)
    outside.mkdir()
    (outside / "file").write_bytes(b"4")
    outside.chmod(0o755)
    (outside / "file").chmod(0o644)
    (home / "there").symlink_to(outside)
    (home / "file").symlink_to(outside / "file")
    (home / "dangling").symlink_to(tmp_path / "nothing")
    keep_private(home)
    found = modes(home)
    assert [name for name, mode in found.items() if mode & 0o077 and not (home / name).is_symlink()] == []
    assert found["run"] == 0o700
    assert found["control.sqlite"] == 0o600
    assert modes(outside) == {".": 0o755, "file": 0o644}
    said = capsys.readouterr()
    assert len([line for line in (said.out + said.err).splitlines() if "home closed to others" in line]) == 1
    keep_private(home)
    assert "home closed" not in "".join(capsys.readouterr())


def test_a_home_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir(mode=0o755)
    (tmp_path / "there").chmod(0o755)
    (tmp_path / "home").symlink_to(tmp_path / "there")
    keep_private(tmp_path / "home")
    assert modes(tmp_path / "there") == {".": 0o700}
    assert (tmp_path / "home").is_symlink()


def test_a_home_that_belongs_to_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home").chmod(0o755)
    other = os.geteuid() + 1
    monkeypatch.setattr(privacy.os, "geteuid", lambda: other)
    with pytest.raises(UsageError, match="belongs to another user"):
        keep_private(tmp_path / "home")
    assert modes(tmp_path / "home") == {".": 0o755}


@pytest.mark.parametrize("kind", ["file", "link to nothing", "below a file"])
def test_what_cannot_be_a_home_is_refused_in_one_line(tmp_path, kind):
    home = tmp_path / "home"
    match kind:
        case "file":
            home.write_text("")
        case "link to nothing":
            home.symlink_to(tmp_path / "nothing")
        case _:
            home.write_text("")
            home /= "deeper"
    with pytest.raises(UsageError, match="cannot be a home"):
        keep_private(home)


SHORT = """
import resource, sys
import numpy, pyarrow.parquet, structlog, typer
from orchestration import cli, planned, replay
from markets import recorded
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (144 << 20),) * 2)
sys.argv = ["tidemill", "replay", "--data", sys.argv[1]]
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_process_that_gets_no_more_memory_ends_in_one_line(tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 1_000_000
    columns = {"symbol": pa.array(["BTC-USD"] * n).dictionary_encode(), "ts": pa.array(np.arange(n) + 1_546_300_800)}
    columns |= {"side": pa.array(["buy"] * n).dictionary_encode(), "trade_id": pa.array(np.arange(n))}
    columns |= {name: pa.array(np.random.default_rng(1).random(n)) for name in ("price", "size")}
    pq.write_table(pa.table(columns), tmp_path / "trades.parquet")
    done = subprocess.run(
        [sys.executable, "-c", SHORT, str(tmp_path / "trades.parquet")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("tidemill: the system gives no more memory")
    assert "Traceback" not in done.stderr


THREAD = """
import threading, time
from orchestration import cli
threading.excepthook = cli._end_short_of_memory
def fail():
    raise MemoryError
threading.Thread(target=fail).start()
time.sleep(60)
"""


def test_a_thread_that_gets_no_more_memory_ends_its_process_in_one_line():
    done = subprocess.run(
        [sys.executable, "-c", THREAD], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"tidemill: {SHORT_OF_MEMORY}"]


def test_paths_and_names_of_any_kind_come_back_from_the_configuration_that_a_replay_writes():
    odd = ('/a/it\'s "both".csv', "/b/back\\slash", "/c/line\nbreak\t\x7f", "/d/é😀")
    template = Project(**tomllib.loads((ROOT / "tidemill.toml").read_text()))
    market = Market(source="recorded", path=odd)
    project = template.model_copy(update={"market": market})
    read = tomllib.loads(as_toml(project))
    assert tuple(read["market"]["path"]) == odd
    assert Project(**read).fleet == project.fleet
