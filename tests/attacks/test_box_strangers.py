"""The exchange in a box among strangers: its clients are answered, its memory is bounded, and it can be stopped."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from markets.box.door import MOST
from tests.attacks.strangers import DEADLINE_S, MIB, connected, crowd, descriptors, hung_up, pushed, resident, until
from tests.brokers import ROOT

PATIENCE_S = 3.0
SERVE = f"""
from markets.box.clock import MarketClock
from markets.box.door import Door
from markets.box.server import Box
from markets.simulated import Simulated
opens = 20_096 * 86_400 * 10**9
names = ["simulated:BTC-USD", "simulated:ETH-USD"]
box = Box(Simulated(7, names, opens, 1), MarketClock(opens, 60.0))
Door.patience_s = {PATIENCE_S}
print(box.url, flush=True)
box.run()
"""
STREAM = "/stream?streams=btcusd@trade/ethusd@trade"


class BoxProcess:
    """A box as a child process."""

    def __init__(self, stderr: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.pid = self.process.pid

    def asked(self, method: str = "GET", path: str = "/box", body: bytes | None = None, **headers: str) -> tuple:
        """Return status, answer and seconds."""
        began = time.monotonic()
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = client.getresponse()
            return answer.status, answer.read(), time.monotonic() - began
        finally:
            client.close()

    def answers(self) -> None:
        """Check that a client is answered."""
        status, _, seconds = self.asked()
        assert status == 200
        assert seconds < DEADLINE_S / 6

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def box() -> Iterator[BoxProcess]:
    process = BoxProcess()
    try:
        yield process
    finally:
        process.end()


def upgraded(one: socket.socket, path: str = STREAM) -> None:
    """Make a WebSocket of a connection; what it is answered is not read."""
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    one.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode()
    )


def message(data: bytes, opcode: int = 1, fin: int = 0x80) -> bytes:
    """Return a client's frame, masked with zeros."""
    head = bytes([fin | opcode])
    if len(data) < 126:
        return head + bytes([0x80 | len(data)]) + bytes(4) + data
    return head + b"\xff" + struct.pack(">Q", len(data)) + bytes(4) + data


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "text/plain; application/json"}, 415),
        ({"Host": "evil.example:8096"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
)
def test_no_web_page_lets_a_fault_happen(box: BoxProcess, changed: dict[str, str], status: int) -> None:
    headers = {"Content_Type": "application/json"} | changed
    before = json.loads(box.asked()[1])["faults_injected"]
    assert box.asked("POST", "/box/faults", b'{"kind": "schema"}', **headers)[0] == status
    assert (json.loads(box.asked()[1])["faults_injected"] == before) == (status != 200)


def test_a_body_or_a_head_without_end_is_refused_and_takes_no_memory(box: BoxProcess) -> None:
    before = resident(box.pid)
    head = b"POST /box/faults HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % box.port
    for start in (head + b"Content-Length: 1000000000\r\n\r\n", head + b"X: ", b"GET /box?"):
        with connected(box.port) as one:
            one.sendall(start)
            one.setblocking(False)
            sent, began = 0, time.monotonic()
            while (
                (taken := pushed(one, b"x" * MIB)) >= 0 and sent < 200 * MIB and time.monotonic() - began < DEADLINE_S
            ):
                sent += taken
            assert hung_up(one)
            assert sent < 100 * MIB
        box.answers()
    assert resident(box.pid) - before < 64 * MIB


def test_half_open_requests_are_ended_and_never_keep_a_client_out(box: BoxProcess) -> None:
    box.answers()
    opened = descriptors(box.pid)
    with crowd(box.port, 1_300) as strangers:
        for one in strangers[::2]:
            pushed(one, b"GET /box HTTP/1.1\r\nHost: x\r\n")
        box.answers()
        assert descriptors(box.pid) < 700
        assert all(hung_up(one) for one in strangers)
    until(lambda: descriptors(box.pid) <= opened + 4, "their descriptors are free again")


def test_a_request_that_trickles_is_dropped_at_its_deadline(box: BoxProcess) -> None:
    with connected(box.port) as one:
        began = time.monotonic()
        one.sendall(b"GET /box HTTP/1.1\r\n")
        one.settimeout(0.1)
        while time.monotonic() - began < DEADLINE_S:
            try:
                one.sendall(b"X: y\r\n")
                assert one.recv(1) == b""
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - began < DEADLINE_S


def test_readers_of_streams_who_do_not_read_take_a_bounded_memory_together(box: BoxProcess) -> None:
    before, opened = resident(box.pid), descriptors(box.pid)
    with crowd(box.port, 60) as strangers:
        for one in strangers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            upgraded(one)
        until(lambda: json.loads(box.asked()[1])["connections"] == 60, "they listen")
        for _ in range(4):
            assert box.asked("POST", "/box/faults", b'{"kind": "burst", "n": 20000}', Content_Type="application/json")
            until(lambda: not json.loads(box.asked()[1])["faults_pending"], "the burst has happened")
            assert resident(box.pid) - before < 350 * MIB
        until(lambda: json.loads(box.asked()[1])["connections"] < 20, "the slowest are cut off")
    until(lambda: descriptors(box.pid) <= opened + 4, "they are gone")


def test_readers_of_answers_who_do_not_read_are_dropped(box: BoxProcess) -> None:
    box.answers()
    opened = descriptors(box.pid)
    request = b"GET /0/public/Trades?pair=XBTUSD&count=1000 HTTP/1.1\r\nHost: x\r\n\r\n"
    with crowd(box.port, 6) as strangers:
        for one in strangers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pushed(one, request * 50)
        box.answers()
        until(lambda: descriptors(box.pid) <= opened + 4, "those who read nothing are dropped")


@pytest.mark.parametrize(
    "sent",
    [
        message(b"x" * MIB),
        message(b"x", 1, 0) + message(b"", 0, 0) * 5_000,
        message(b"[" * 60_000),
        message(json.dumps({"method": "SUBSCRIBE", "params": [f"s{n}" for n in range(1_100)], "id": 1}).encode()),
        message(b'{"method": "LIST_SUBSCRIPTIONS", "id": 1}') * 2_000,
        message(b"x" * 100, 9) * 30_000,
        b"\xff" * 10_000,
    ],
    ids=["long", "in parts", "deep", "streams", "many", "pings", "noise"],
)
def test_whatever_is_said_on_a_stream_keeps_nobody_waiting(box: BoxProcess, sent: bytes) -> None:
    before = resident(box.pid)
    for path in (STREAM, "/v2"):
        with connected(box.port) as one:
            upgraded(one, path)
            one.setblocking(False)
            pushed(one, sent)
            box.answers()
    assert resident(box.pid) - before < 64 * MIB


def test_no_question_is_an_error_of_the_box(box: BoxProcess) -> None:
    rng = random.Random(11)
    routes = ("time", "exchangeInfo", "klines", "aggTrades", "trades", "historicalTrades")
    paths = [f"/api/v3/{name}" for name in routes]
    paths += [f"/0/public/{name}" for name in ("Time", "AssetPairs", "OHLC", "Trades")]
    names = ("symbol", "symbols", "interval", "startTime", "endTime", "fromId", "limit", "pair", "since", "count")
    values = ["BTCUSD", "XBTUSD", "1m", "1w", "0", "-1", "1000", str(2**63), "9" * 400, "1e9", "[", '["BTCUSD"]', "ä\0"]
    for number in range(300):
        asked = "&".join(f"{name}={quote(rng.choice(values))}" for name in rng.sample(names, rng.randint(0, 4)))
        path = f"{rng.choice(paths)}?{asked}"
        status, _, seconds = box.asked(path=path)
        assert status < 500, (number, path)
        assert seconds < DEADLINE_S / 6, (number, path)


def test_a_box_among_strangers_still_hears_that_it_is_to_stop() -> None:
    box = BoxProcess()
    try:
        with crowd(box.port, 150) as strangers:
            for number, one in enumerate(strangers):
                match number % 3:
                    case 0:
                        pushed(one, b"GET /box HTTP/1.1\r\n")
                    case 1:
                        upgraded(one)
                    case 2:
                        pushed(one, b"GET /api/v3/trades?symbol=BTCUSD&limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
            assert box.end() in {0, -signal.SIGTERM}
    finally:
        box.end()


def test_sockets_that_ask_for_nothing_leave_half_of_all_connections_to_requests(box: BoxProcess) -> None:
    with crowd(box.port, MOST // 2 + 10) as strangers:
        for one in strangers:
            upgraded(one)
        for one in strangers:
            one.setblocking(True)
        found = Counter(one.recv(12, socket.MSG_WAITALL) for one in strangers)
        assert found == {b"HTTP/1.1 101": MOST // 2, b"HTTP/1.1 400": 10}
        box.answers()
    until(lambda: b'"connections":0' in box.asked()[1].replace(b" ", b""), "who left is forgotten")


def test_a_body_that_breaks_off_badly_after_its_answer_is_no_event_of_the_log() -> None:
    box = BoxProcess(stderr=subprocess.PIPE)
    try:
        with connected(box.port) as one:
            one.sendall(b"GET /box HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert one.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
            one.sendall(b"ZZ\r\n")
            assert hung_up(one)
        box.answers()
    finally:
        box.end()
    assert box.process.stderr is not None
    with box.process.stderr as said:
        assert "Traceback" not in said.read()
