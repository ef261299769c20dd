"""The command: help reads well, answers go to stdout, and a mistake is one line with exit code 2."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain.config import Places
from markets.drawn import draw_candles
from orchestration.supervisor import Policy, Supervisor
from warehouse.control import Control
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

ROOT = Path(__file__).parents[2]


def tidemill(*args, **env):
    import os

    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
    )


def test_help_names_every_command():
    done = tidemill("--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "logs", "doctor", "replay", "chaos", "exchange", "run"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("args", "env", "word"),
    [
        (["nonsense"], {}, "No such command 'nonsense'"),
        (["run", "nothing"], {}, "featurizer"),
        (["run"], {}, "service"),
        (["replay"], {}, "--data"),
        (["replay", "--data", "/nowhere/x.parquet"], {}, "/nowhere/x.parquet"),
        (["status"], {"TIDEMILL_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
        (["status"], {"TIDEMILL_BROKER_PORT": "many"}, "TIDEMILL_BROKER_PORT"),
        (["logs", "nothing"], {}, "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args, env, word, tmp_path):
    done = tidemill(*args, **{"TIDEMILL_HOME": str(tmp_path / "home"), **env})
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert word in done.stderr


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('colour = "blue"', "unknown key 'colour'"),
        ('horizon = "7s"', "whole bars"),
        ('interval = "soon"', "not a duration"),
        ("instruments = []", "instruments"),
        ("instruments = [", "Invalid"),
        ('market = "binance"', "market: "),
        ('instruments = ["B TC"]', "write BTC-USDT"),
        ('instruments = ["binance:BTC-USDT"]', "made-up"),
    ],
)
def test_a_wrong_configuration_names_file_and_key(line, word, tmp_path):
    config = tmp_path / "tidemill.toml"
    config.write_text(
        line + "\n" + ('instruments = ["simulated:B"]\n' if not line.startswith("instruments") else "")
        + '[[fleet]]\nname = "m"\nkind = "rls"\ntargets = ["price_change", "direction", "volatility"]\n'
    )  # fmt: skip
    done = tidemill("status", TIDEMILL_CONFIG=str(config), TIDEMILL_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert str(config) in done.stderr
    assert word in done.stderr


@pytest.fixture
def broken(tmp_path):
    """The environment of a home where a broker runs and the configuration is no TOML at all."""
    home, config = tmp_path / "home", tmp_path / "tidemill.toml"
    config.write_text("no TOML at all")
    supervisor = Supervisor(home / "services")
    supervisor.start("broker", [sys.executable, "-c", "import time; print('well', flush=True); time.sleep(600)"])
    yield {"TIDEMILL_CONFIG": str(config), "TIDEMILL_HOME": str(home)}
    supervisor.stop_all()


def test_down_stops_what_runs_whatever_the_configuration_has_become(broken):
    done = tidemill("down", **broken)
    assert (done.returncode, done.stdout.strip()) == (0, "stopped: broker"), done.stderr
    assert Supervisor(Path(broken["TIDEMILL_HOME"]) / "services").status("broker").phase == "stopped"


def test_status_shows_what_runs_whatever_the_configuration_has_become(broken):
    done = tidemill("status", **broken)
    assert done.returncode == 2
    [mistake] = done.stderr.strip().splitlines()
    assert broken["TIDEMILL_CONFIG"] in mistake
    assert "broker running" in " ".join(done.stdout.split())
    done = tidemill("status", "--json", **broken)
    found = json.loads(done.stdout)
    assert (done.returncode, found["healthy"]) == (2, False)
    assert broken["TIDEMILL_CONFIG"] in found["problem"]
    assert {row["name"]: row["phase"] for row in found["services"]}["broker"] == "running"


@pytest.mark.parametrize(
    ("ending", "note"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"), ("sys.exit('no space left')", "no space left")],
)
def test_status_says_how_a_service_ended_and_not_what_it_did_before(ending, note, tmp_path):
    supervisor = Supervisor(tmp_path / "home" / "services", Policy(max_fails=0))
    code = f"import os, signal, sys; print('all is well', flush=True); {ending}"
    supervisor.start("trainer", [sys.executable, "-c", code])
    supervisor.wait("trainer", {"crashed"}, 20.0)
    found = json.loads(tidemill("status", "--json", TIDEMILL_HOME=str(tmp_path / "home")).stdout)
    [trainer] = [row for row in found["services"] if row["name"] == "trainer"]
    assert (trainer["phase"], trainer["note"]) == ("crashed", note)


def test_logs_are_read_whatever_the_configuration_has_become(broken):
    supervisor = Supervisor(Path(broken["TIDEMILL_HOME"]) / "services")
    deadline = time.monotonic() + 20
    while not supervisor.tail("broker", 1):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = tidemill("logs", "broker", **broken)
    assert (done.returncode, done.stdout.strip()) == (0, "well"), done.stderr


def test_status_before_anything_runs_says_so_and_makes_nothing(tmp_path):
    home = tmp_path / "home"
    done = tidemill("status", "--json", TIDEMILL_HOME=str(home))
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["healthy"] is False
    assert {row["phase"] for row in found["services"]} == {"not deployed"}
    assert found["market"] == "market: not settled before the first 'tidemill up'"
    assert not home.exists()


def test_a_service_without_a_model_says_what_to_do(tmp_path):
    from tests.brokers import running_broker

    with running_broker(tmp_path / "broker") as bootstrap:
        done = tidemill(
            "run", "trainer", TIDEMILL_HOME=str(tmp_path / "home"), TIDEMILL_KAFKA_BOOTSTRAP_SERVERS=bootstrap
        )  # fmt: skip
    assert done.returncode == 2
    assert "initial_model" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--bar", "7x"], "not a duration"),
        (["--bar", "5m"], "last 60 s"),
        (["--horizon", "90s"], "whole bars"),
        (["--train-until", "yesterday"], "not a date"),
        (["--train-until", "2018-01-01"], "not inside the data"),
        (["--instrument", "recorded:NOPE"], "recorded:AAA-USD"),
        (["--home", "."], "not empty"),
        (["--data", "README.md"], ".md"),
    ],
)
def test_a_wrong_wish_for_a_replay_is_one_line_before_anything_starts(args, word, tmp_path):
    path = tmp_path / "candles.parquet"
    draw_candles(path, ("AAA-USD",), 300, seed=5)
    done = tidemill("replay", "--data", str(path), *args)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert word in done.stderr


def test_status_names_every_version_that_was_refused_with_the_reason(tmp_path):
    places = Places(home=tmp_path / "home")
    with Control.open(places.control) as control:
        registry, line = Registry(control, places.models), "simulated:BTC-USDT"
        lease = Leases(control).acquire(line, "test", 60)
        for n in range(7):
            info = VersionInfo(kind="update", watermark=n, n_learned=n, digest=str(n))
            registry.publish(line, b"model", info, lease)
        registry.refusals.note(line, dict.fromkeys(range(1, 8), "its sha256 is not the published one"), "predictor")
    found = json.loads(tidemill("status", "--json", TIDEMILL_HOME=str(places.home)).stdout)["refused_versions"]
    assert [refusal["number"] for refusal in found] == [7, 6, 5, 4, 3, 2, 1]
    assert found[0].items() >= {"line": line, "reason": "its sha256 is not the published one"}.items()
    shown = " ".join(tidemill("status", TIDEMILL_HOME=str(places.home)).stdout.split())
    assert "refused: simulated:BTC-USDT version 7 by predictor, " in shown
    assert "UTC: its sha256 is not the published one" in shown
    assert "2 more" in shown


@pytest.mark.parametrize("service", ["trainer", "predictor"])
def test_a_key_that_others_can_read_is_one_line_and_exit_code_2(tmp_path, service):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "model.key").write_text("0123456789" * 7)
    (home / "model.key").chmod(0o644)
    done = tidemill("run", service, TIDEMILL_HOME=str(home))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"tidemill: {home}/model.key has mode 0644: others may know the key; chmod 600 or replace it"
    ]


@pytest.mark.parametrize("service", ["trainer", "ingest"])
def test_a_rehearsal_builds_the_service_and_opens_nothing(tmp_path, service):
    home = tmp_path / "home"
    done = tidemill("run", service, "--rehearse", TIDEMILL_HOME=str(home))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in home.iterdir()] == ["model.key"]


def test_a_rehearsal_fails_where_a_start_would(tmp_path):
    config = tmp_path / "tidemill.toml"
    recorded = '[market]\nsource = "recorded"\npath = ["/nowhere/x.parquet"]\n'
    config.write_text(
        f'instruments = ["recorded:BTC-USD"]\n{recorded}[[fleet]]\nname = "m"\nkind = "rls"\n'
        'targets = ["price_change", "direction", "volatility"]\n'
    )
    done = tidemill("run", "ingest", "--rehearse", TIDEMILL_HOME=str(tmp_path / "home"), TIDEMILL_CONFIG=str(config))
    assert done.returncode == 2
    assert "/nowhere/x.parquet" in done.stderr
