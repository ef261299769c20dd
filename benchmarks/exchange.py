"""What the exchange in a box costs and gives: ``python -m benchmarks.exchange``. Prints one JSON object.

Trades a second at the reader's pace, against a reader that only drains its socket, by both exchanges; CPU seconds
at 60 times the market's pace with two symbols, listened to and idle; the time to answer 7 days of one-minute candles.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.request import urlopen

from domain.events import NANOS_PER_DAY
from markets.box.clock import MarketClock
from markets.box.server import Box
from markets.simulated import Simulated

OPENS = 20_096 * NANOS_PER_DAY
INSTRUMENTS = ("simulated:BTC-USD", "simulated:ETH-USD")
BINANCE = "/stream?streams=btcusd@trade/ethusd@trade"
SUBSCRIBE = b'{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD","ETH/USD"]}}'


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    answer = {
        "binance_trades_a_second": drained(BINANCE, b"", seconds),
        "kraken_trades_a_second": drained("/v2", SUBSCRIBE, seconds),
        "cpu_percent_at_60x": 100 * busy(BINANCE, seconds),
        "cpu_percent_at_60x_idle": 100 * busy("", seconds),
        "week_of_klines_s": week(),
        "week_of_klines_again_s": week(twice=True),
    }
    print(json.dumps({name: round(value, 3) for name, value in answer.items()}))


@contextmanager
def box_at(speed: float) -> Iterator[tuple[str, int]]:
    """Run a box in a process of its own; yield its address and its process."""
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(speed, theirs), daemon=True)
    process.start()
    try:
        yield mine.recv(), int(process.pid or 0)
    finally:
        process.kill()
        process.join()


def _serve(speed: float, told: Connection) -> None:
    box = Box(Simulated(7, INSTRUMENTS, OPENS, 7), MarketClock(OPENS, speed))
    told.send(box.url)
    box.run()


def state(url: str) -> dict[str, int]:
    """Return what the box tells of itself."""
    with urlopen(f"http://{url}/box") as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def connection(url: str, path: str, message: bytes) -> socket.socket:
    """Return a WebSocket connection without any library: what it costs is the box's."""
    host, _, port = url.partition(":")
    one = socket.create_connection((host, int(port)))
    one.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += one.recv(1)
    if message:  # a masked text frame whose mask changes nothing
        one.sendall(bytes((0x81, 0x80 | len(message))) + bytes(4) + message)
    return one


def drained(path: str, message: bytes, seconds: float) -> float:
    """Return the trades a second that a reader takes who only drains its socket."""
    with box_at(0) as (url, _):
        one = connection(url, path, message)
        began, sent = time.monotonic(), state(url)["trades_sent"]
        while time.monotonic() - began < seconds:
            one.recv(1 << 20)
        took = time.monotonic() - began
        one.close()
        return (state(url)["trades_sent"] - sent) / took


def busy(path: str, seconds: float) -> float:
    """Return the CPU seconds a second of a box at 60 times the market's pace."""
    with box_at(60) as (url, pid):
        state(url)
        one = connection(url, path, b"") if path else None
        before, began = _cpu(pid), time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            if one is not None:
                one.settimeout(left)
                try:
                    one.recv(1 << 20)
                except TimeoutError:
                    break
            else:
                time.sleep(left)
        return (_cpu(pid) - before) / (time.monotonic() - began)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def week(*, twice: bool = False) -> float:
    """Return the seconds in which a fresh box, or one that did so before, answers 7 days of candles of a symbol."""
    with box_at(60) as (url, _):
        state(url)
        for _ in range(1 + twice):
            began, start = time.monotonic(), (OPENS - 7 * NANOS_PER_DAY) // 1_000_000
            while start < OPENS // 1_000_000:
                path = f"/api/v3/klines?symbol=BTCUSD&interval=1m&limit=1000&startTime={start}"
                with urlopen(f"http://{url}{path}") as answer:
                    start = json.load(answer)[-1][0] + 60_000
        return time.monotonic() - began


if __name__ == "__main__":
    main()
