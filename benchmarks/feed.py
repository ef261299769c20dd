"""How many trades a second the live feed hands out, against a bare ``websockets`` reader of the same frames.

Run ``python benchmarks/feed.py [--json] [--trades N] [--runs N]``. A process of its own sends Binance's frames, one
trade each, as fast as they are taken. Bare reader and feed take turns in this process, all its threads on one core, so
that a ratio is of the same minute; every figure is the median of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from domain.tables import TradeTable
from markets.binance import Binance
from markets.live import Live
from markets.source import Resume
from markets.venue import Address, Rest

NAMES = ("binance:BTC-USDT", "binance:ETH-USDT", "binance:SOL-USDT")
START_MS = 1_750_000_000_000


class Streamed(Binance):
    """Binance, of which only the streams are there."""

    async def trades(self, *_: object) -> AsyncIterator[TradeTable]:
        """Yield nothing: there is nothing to repair."""
        for table in ():
            yield table


def frames(n: int) -> bytes:
    """Return n trades, of each instrument in turn, as they are on the wire."""
    symbols = [name.partition(":")[2].replace("-", "") for name in NAMES]
    texts = (
        f'{{"stream":"{symbol.lower()}@trade","data":{{"e":"trade","E":{START_MS + k},"s":"{symbol}","t":{k + 1},'
        f'"p":"{60_000 + k % 997}.{k % 100:02}000000","q":"0.{1 + k % 99_999:05}000","T":{START_MS + k},'
        f'"m":{"true" if k % 3 else "false"},"M":true}}}}'
        for k in range(n // len(symbols))
        for symbol in symbols
    )
    return b"".join(Frame(Opcode.TEXT, text.encode()).serialize(mask=False) for text in texts)


def exchange(n: int, told: Connection) -> None:
    """Serve the frames to whoever connects, until killed."""
    wire = frames(n)

    async def stream(client: ServerConnection) -> None:
        client.transport.write(wire)  # past the library, whose sending would be what is measured
        await client.wait_closed()

    async def run() -> None:
        async with serve(stream, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            told.send(server.sockets[0].getsockname()[1])
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


def bare(url: str, n: int) -> float:
    """Return trades a second of a reader that only counts."""

    async def run() -> float:
        async with connect(url, compression=None, ping_interval=None) as connection:
            await connection.recv()
            began = time.perf_counter()
            for _ in range(n - 1):
                await connection.recv()
            return (n - 1) / (time.perf_counter() - began)

    return asyncio.run(run())


def feed(url: str, n: int) -> float:
    """Return trades a second out of ``poll``."""
    start = {name: Resume(0, 0) for name in NAMES}
    address = Address("http://127.0.0.1:9", url)
    source = Live(Streamed(), lambda: nullcontext(cast("Rest", None)), NAMES, 0, 1, address=address)
    opened = source.open(start, 1.0)
    got = 0
    began = 0.0
    while got < n:
        some = len(opened.poll(2_000, 5.0))
        began = began or time.perf_counter()
        got += some
    rate = n / (time.perf_counter() - began)
    health = opened.health
    opened.close()
    assert (health["repaired"], health["duplicates"], health["absent"]) == (0, 0, 0), health
    return rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    n = chosen.trades // len(NAMES) * len(NAMES)
    cores = sorted(os.sched_getaffinity(0))
    mine, other = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=exchange, args=(n, other), daemon=True)
    server.start()
    os.sched_setaffinity(0, cores[-1:])
    url = f"ws://127.0.0.1:{mine.recv()}"
    readers: dict[str, Callable[[str, int], float]] = {"bare": bare, "feed": feed}
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(chosen.runs):
        for name, reader in readers.items():
            rates[name].append(reader(url, n))
    server.kill()
    found = {
        "trades": n,
        "bare_a_second": round(statistics.median(rates["bare"])),
        "feed_a_second": round(statistics.median(rates["feed"])),
        "ratio": round(statistics.median(f / b for f, b in zip(rates["feed"], rates["bare"], strict=True)), 2),
        "python": platform.python_version(),
        "websockets": websockets.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
    if chosen.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:>15} {value}")


if __name__ == "__main__":
    main()
