"""The exchange in a box as a command: one line that says what it serves, and a clock that outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.markets.samples import START, candles, trades, write

ROOT = Path(__file__).parents[2]


def command(*args):
    return [sys.executable, "-m", "orchestration.cli", "exchange", *args]


@contextmanager
def exchange(home, *args):
    """Yield the line that the command printed, and where it serves."""
    environment = {**os.environ, "TIDEMILL_HOME": str(home)}
    process = subprocess.Popen(
        command("--port", "0", *args), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        yield line, re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()


def told(url):
    with urlopen(f"{url}/box", timeout=10) as answer:
        return json.load(answer)


def test_it_says_that_prices_are_simulated_and_goes_on_after_a_stop(tmp_path):
    with exchange(tmp_path, "--instrument", "simulated:BTC-USD", "--speed", "600") as (line, url):
        assert line.startswith("SIMULATED prices of simulated:BTC-USD at http://127.0.0.1:")
        first = told(url)
    with exchange(tmp_path, "--instrument", "simulated:BTC-USD", "--speed", "600") as (_, url):
        assert told(url)["now"] > first["now"]
    assert (first["simulated"], first["instruments"]) == (True, ["simulated:BTC-USD"])


def test_it_serves_recorded_trades_from_an_opening(tmp_path):
    path = write(tmp_path / "t.parquet", trades(6, symbol="ETH-USD", step=1_000_000_000))
    args = ("--source", str(path), "--speed", "0", "--opens", "2023-11-14T00:00:03", "--faults", "drop,429")
    with exchange(tmp_path / "home", *args) as (line, url):
        assert line.startswith("recorded prices of recorded:ETH-USD at http://127.0.0.1:")
        assert told(url)["now"] == START + 3_000_000_000
        with urlopen(f"{url}/api/v3/trades?symbol=ETHUSD", timeout=10) as answer:
            assert [trade["id"] for trade in json.load(answer)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--faults", "flood"], "'flood' is no fault; choose from drop"),
        (["--source", "simulated", "--source", "x.parquet"], "give it alone, or files alone"),
        (["--source", "{candles}"], "an exchange is made of trades"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, args, words):
    path = write(tmp_path / "c.parquet", candles(50))
    done = subprocess.run(
        command(*(arg.format(candles=path) for arg in args)), cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "TIDEMILL_HOME": str(tmp_path / "home")}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
