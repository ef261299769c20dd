"""The command: help reads well, answers go to stdout, and a mistake is one line with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    for command in ("up", "down", "status", "logs", "doctor", "replay", "run"):
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
        ('instruments = ["BTC"]', "venue:SYMBOL"),
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


def test_status_before_anything_runs_says_so_and_makes_nothing(tmp_path):
    home = tmp_path / "home"
    done = tidemill("status", "--json", TIDEMILL_HOME=str(home))
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["healthy"] is False
    assert {row["phase"] for row in found["services"]} == {"not deployed"}
    assert "simulated" in found["market"]
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
    from tests.walk.conftest import write_candles

    path = tmp_path / "candles.parquet"
    write_candles(path, ("AAA-USD",), minutes=300)
    done = tidemill("replay", "--data", str(path), *args)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert word in done.stderr
