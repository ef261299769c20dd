"""The exchange in a box as a command: one line that says what it serves, and a clock that outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.markets.samples import START, candles, trades, write
from tests.mills import TOML

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


def test_the_service_takes_up_an_instrument_that_joins_and_its_clock_goes_on(tmp_path):
    toml = TOML.replace(', "simulated:ETH-USD"', "").replace("[market]", '[market]\nsource = "box"')
    config = tmp_path / "tidemill.toml"
    config.write_text(toml)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "TIDEMILL_HOME": str(tmp_path / "home"), "TIDEMILL_CONFIG": str(config),
        "TIDEMILL_EXCHANGE_PORT": str(port),
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    run = [sys.executable, "-m", "orchestration.cli", "run", "exchange"]
    process = subprocess.Popen(run, cwd=ROOT, env=environment)
    try:
        before = until(url, lambda box: box["instruments"] == ["simulated:BTC-USD"])
        config.write_text(toml.replace('"simulated:BTC-USD"', '"simulated:BTC-USD", "simulated:ETH-USD"'))
        after = until(url, lambda box: box["instruments"] == ["simulated:BTC-USD", "simulated:ETH-USD"])
        assert after["now"] > before["now"]
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {0, -signal.SIGTERM}


def until(url, holds):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if holds(box := told(url)):
                return box
        time.sleep(0.1)
    pytest.fail(f"{url}: not within 30 s")
