"""How many trades a second ingest takes from an exchange to Kafka, against a bare ``websockets`` reader of its frames.

Run ``python benchmarks/feed.py [--json] [--trades N] [--runs N]``. A process of its own sends Binance's frames, one
trade each, as fast as they are taken; another is the dev broker. Bare reader, feed (trades out of ``poll``) and ingest
(acknowledged records of topic ``trades``) take turns in this process, all its threads on one core, so that a ratio is
of the same minute; every figure is the median of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
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

from domain.config import Model, Places, Project
from domain.tables import TradeTable
from domain.topics import TRADES
from markets.binance import Binance
from markets.live import Live
from markets.source import Resume
from markets.venue import Address, Rest
from streaming.app import Context
from streaming.ingest import Ingest
from streaming.kafka import Kafka
from streaming.topics import create_topics
from tests.brokers import BrokerProcess
from warehouse.control import Control

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


def source_of(url: str) -> Live:
    """Return the exchange as a source."""
    address = Address("http://127.0.0.1:9", url)
    return Live(Streamed(), lambda: nullcontext(cast("Rest", None)), NAMES, 0, 1, address=address)


def feed(url: str, n: int) -> float:
    """Return trades a second out of ``poll``."""
    opened = source_of(url).open({name: Resume(0, 0) for name in NAMES}, 1.0)
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


class Fresh(Ingest):
    """Ingest of a topic that is read from the first trade on."""

    def _resume(self, *_: object) -> Resume:
        return Resume(0, 0)


class Log:
    """Topic ``trades`` on a dev broker, each time under other names."""

    def __init__(self, broker: BrokerProcess, home: Path) -> None:
        models = (Model(name="rls", kind="rls", targets=("price_change", "direction", "volatility")),)
        self._project = Project(instruments=NAMES, market={"source": "binance"}, fleet=models)  # type: ignore[arg-type]
        self._broker, self._home, self._runs = broker, home, itertools.count()

    def ingest(self, url: str, n: int) -> float:
        """Return trades a second, from the first to the last that the broker has acknowledged."""
        prefix = f"run{next(self._runs)}-"
        places = Places(home=self._home, kafka_bootstrap_servers=self._broker.address, kafka_topic_prefix=prefix)
        create_topics(places, NAMES)
        with Control.open(places.control) as control:
            transport = Kafka(places)
            stage = Fresh(Context(self._project, places, control, transport), source_of(url))
            stage.open()
            sent = stage.work(5.0)
            began = saved = time.perf_counter()
            while sent < n:
                sent += stage.work(1.0)
                if time.perf_counter() - saved >= 1.0:  # as the loop of every service does
                    stage.save()
                    saved = time.perf_counter()
            stage.save()
            rate = n / (time.perf_counter() - began)
            ends = transport.ends([(TRADES, partition) for partition in range(len(NAMES))])
            stage.close(clean=True)
        assert sum(high for _, high in ends.values()) == n, ends
        return rate


def ratio(rates: dict[str, list[float]], name: str) -> float:
    """Return the median ratio of a reader to the bare one of its turn."""
    return round(statistics.median(one / bare for one, bare in zip(rates[name], rates["bare"], strict=True)), 2)


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
    scratch = tempfile.TemporaryDirectory(prefix="tidemill-feed-")
    data = Path(scratch.name) / "broker"
    data.mkdir()
    broker = BrokerProcess(data)
    broker.start()
    server = multiprocessing.get_context("spawn").Process(target=exchange, args=(n, other), daemon=True)
    server.start()
    os.sched_setaffinity(0, cores[-1:])
    url = f"ws://127.0.0.1:{mine.recv()}"
    readers: dict[str, Callable[[str, int], float]] = {
        "bare": bare,
        "feed": feed,
        "ingest": Log(broker, Path(scratch.name)).ingest,
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(chosen.runs):
        for name, reader in readers.items():
            rates[name].append(reader(url, n))
    server.kill()
    broker.stop()
    scratch.cleanup()
    found = {
        "trades": n,
        "bare_a_second": round(statistics.median(rates["bare"])),
        "feed_a_second": round(statistics.median(rates["feed"])),
        "ingest_a_second": round(statistics.median(rates["ingest"])),
        "feed_to_bare": ratio(rates, "feed"),
        "ingest_to_bare": ratio(rates, "ingest"),
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
