"""A toy exchange on real sockets: trades as JSON, with every fault that an exchange or a network has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
from websockets.asyncio.server import serve

from domain.bars import BAR_COLUMNS
from domain.errors import BadRecord, Unavailable, UsageError
from domain.events import NANOS_PER_DAY, Trade
from domain.tables import BarTable, TradeTable
from markets.live import Live
from markets.source import Resume
from markets.tempo import Tempo
from markets.venue import Address, Closing, Notice

START = 1_700_000_000_000_000_000
A, B = "toy:A-USD", "toy:B-USD"
QUICK = Tempo(
    grace_s=0.02, settle_s=0.05, audit_s=0.2, audit_each_s=0.0, retry_s=0.02, retry_most_s=0.1, patience_s=0.3,
    backoff_s=0.02, backoff_most_s=0.1, overlap_s=0.1,
)  # fmt: skip
DEADLINE_S = 20.0


class Toy:
    """How the toy exchange reads; see ``venue.Venue``."""

    name = "toy"
    weight_a_minute = 1_000_000
    candles_kept = None

    def __init__(self, address, lifetime_s=float("inf"), silence_s=5.0):
        self.address, self.lifetime_s, self.silence_s = address, lifetime_s, silence_s

    def symbol(self, instrument):
        return instrument.removeprefix("toy:")

    def stream(self, base, instruments):
        return f"{base}/stream", (json.dumps({"subscribe": [self.symbol(name) for name in instruments]}),)

    def read(self, frame):
        try:
            said = json.loads(frame)
            if "trades" in said:
                return [Trade(f"toy:{symbol}", *rest) for symbol, *rest in said["trades"]]
            if "notice" in said:
                raise Notice(said["notice"])
            if "refused" in said:
                raise UsageError(said["refused"])
            if "closing" in said:
                raise Closing(said["closing"])
            if said.keys() & {"beat"}:
                return []
        except (ValueError, TypeError) as error:
            raise BadRecord("schema", str(error)) from error
        raise BadRecord("schema", f"no field is known: {', '.join(said)}")

    async def now(self, rest):
        assert rest
        return 2**62

    async def check(self, rest, instruments):
        halted = json.loads(await rest.get("/halted", {}, 1))
        if names := [name for name in instruments if name in halted]:
            raise Unavailable(f"{names[0]}: trading is halted")

    async def candles(self, rest, instrument, interval, start, end):
        for first in range(start + interval, end + 1, 700 * interval):
            ts = np.arange(first, min(end + 1, first + 700 * interval), interval)
            assert await rest.get("/time", {}, 1)
            yield BarTable(ts, np.ones((len(ts), len(BAR_COLUMNS))))

    async def trades(self, rest, instrument, after):
        while True:
            params = {"symbol": self.symbol(instrument), "ts": after.after_ts}
            if after.after_trade_id is not None:
                params["id"] = after.after_trade_id
            rows = json.loads(await rest.get("/trades", params, 1))
            if not rows:
                return
            ids, ts, price, size, side = zip(*rows, strict=True)
            yield TradeTable(np.array(ts), np.array(ids), np.array(price), np.array(size), np.array(side, np.int8))
            after = Resume(ts[-1], ids[-1])


class ToyRest:
    """A client that asks again a few times; see ``venue.Rest``."""

    def __init__(self, address, attempts=3):
        self._url, self._attempts = urlsplit(address.rest), attempts

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def get(self, path, params, weight):
        for _ in range(self._attempts):
            try:
                status, body = await self._asked(f"{path}?{urlencode(params)}")
            except OSError:
                status = 0
            if status == 200:
                return body
            if status == 400:
                raise UsageError(f"{path}: {body.decode()}")
            await asyncio.sleep(0.01)
        raise Unavailable(f"{path}: HTTP {status} {self._attempts} times")

    async def _asked(self, target):
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: toy\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


class Exchange:
    """The server, in a thread of its own. Trades are made (REST knows them) and sent (the stream shows them) apart.

    Attributes
    ----------
    statuses : what the next requests are answered with instead of 200
    refuses : HTTP status that answers whoever wants a WebSocket
    halted : instruments that are not traded
    hidden : how many of the newest trades REST does not know yet
    page : trades a REST answer
    asked : targets of all requests so far
    opened : connections so far
    """

    def __init__(self, port=0):
        self.port = port
        self.made = {A: [], B: []}
        self.statuses, self.refuses, self.hidden, self.page = deque(), 0, 0, 50
        self.asked, self.opened, self.halted = [], 0, []
        self.beat_s = 0.02
        self._next = {A: 1_000, B: 5_000}
        self._clients = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)

    @property
    def address(self):
        return Address(f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}")

    @property
    def clients(self):
        return len(self._clients)

    def make(self, instrument=A, n=1, absent=0):
        """New trades, after so many ids that do not exist."""
        self._next[instrument] += absent
        first = self._next[instrument]
        self._next[instrument] += n
        new = [
            Trade(instrument, START + k * 1_000_000, k, 100.0 + k % 7, 0.5 + k % 3, 1 if k % 2 else -1)
            for k in range(first, first + n)
        ]
        self.made[instrument] += new
        return new

    def send(self, trades, a_frame=1, pad=0):
        """Show trades, so many a frame, with so many bytes more."""
        rows = [[t.instrument.removeprefix("toy:"), *(getattr(t, f) for f in t.__struct_fields__[1:])] for t in trades]
        self.say(
            *(json.dumps({"pad": "x" * pad, "trades": rows[k : k + a_frame]}) for k in range(0, len(rows), a_frame))
        )

    def say(self, *texts):
        self._do(self._said(texts))

    def trade(self, instrument=A, n=1, a_frame=1, pad=0):
        new = self.make(instrument, n)
        self.send(new, a_frame, pad)
        return new

    def close(self, code=1012):
        self._do(self._each(lambda client: client.close(code, "restart")))

    def abort(self):
        """Break all connections off."""
        self._do(self._each(lambda client: client.transport.abort()))

    def stall(self):
        """Let all connections of now be half-open: nothing comes any more, nobody answers."""
        self._do(self._each(self._stalled))

    def subscribed(self):
        return [symbols for symbols in self._clients.values() if symbols]

    def stop(self):
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the toy exchange does not stop"

    def _do(self, work):
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    async def _serve(self):
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with serve(self._stream, "127.0.0.1", self.port, process_request=self._request, compression=None,
                         ping_interval=None, close_timeout=0.1) as server:  # fmt: skip
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stopping.wait()
            for client in server.connections:  # one that reads nothing would be waited for
                client.transport.abort()

    async def _stream(self, client):
        with contextlib.suppress(Exception):
            self._clients[client] = json.loads(await client.recv())["subscribe"]
            self.opened += 1
            while True:
                await client.send('{"beat": 1}')
                await asyncio.sleep(self.beat_s)
                if self._clients.get(client, ()) is None:
                    await client.wait_closed()
        self._clients.pop(client, None)

    async def _said(self, texts):
        for client, symbols in list(self._clients.items()):
            if symbols:
                with contextlib.suppress(Exception):
                    for text in texts:
                        await client.send(text)

    async def _each(self, act):
        for client in list(self._clients):
            self._clients.pop(client)
            done = act(client)
            if done is not None:
                await done

    def _stalled(self, client):
        self._clients[client] = None
        client.transport.pause_reading()

    def _request(self, connection, request):
        where = urlsplit(request.path)
        if where.path == "/stream":
            return connection.respond(self.refuses, "refused\n") if self.refuses else None
        self.asked.append(request.path)
        if self.statuses:
            return connection.respond(self.statuses.popleft(), "unknown symbol A-USD")
        if where.path == "/halted":
            return connection.respond(200, json.dumps(self.halted))
        query = {key: values[0] for key, values in parse_qs(where.query).items()}
        return connection.respond(200, json.dumps(self._rows(query) if where.path == "/trades" else [1]))

    def _rows(self, query):
        made = self.made[f"toy:{query['symbol']}"]
        known = made[: len(made) - self.hidden]
        key = (lambda t: t.trade_id > int(query["id"])) if "id" in query else (lambda t: t.ts_event > int(query["ts"]))
        rows = [t for t in known if key(t)][: self.page]
        return [[t.trade_id, t.ts_event, t.price, t.size, t.side] for t in rows]


def live(
    exchange, instruments=(A, B), *, lifetime_s=float("inf"), silence_s=5.0, tempo=QUICK, record=None, opens=START
):
    venue = Toy(exchange.address, lifetime_s, silence_s)
    return Live(
        venue, lambda: ToyRest(exchange.address), instruments, opens, 7 * NANOS_PER_DAY, tempo=tempo, record=record
    )


def until(condition, what="it"):
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came to be"
        time.sleep(0.002)


def polled(feed, n, most=100):
    """The next n trades of a feed, or fewer if it takes too long."""
    got, deadline = [], time.monotonic() + DEADLINE_S
    while len(got) < n and time.monotonic() < deadline:
        got += feed.poll(min(most, n - len(got)), 0.05)
    return got


def ids(trades, instrument=A):
    return [trade.trade_id for trade in trades if trade.instrument == instrument]


def hears(feed, made):
    """Nothing but these trades comes next, in this order of each instrument."""
    got = polled(feed, len(made))
    for name in (A, B):
        assert [t for t in got if t.instrument == name] == [t for t in made if t.instrument == name]
