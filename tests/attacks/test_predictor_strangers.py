"""Strangers at the predictor's port, against a real server process: it goes on, answers others, and drops them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from streaming.connections import most_connections
from streaming.descriptors import raised_file_limit

ROOT = Path(__file__).parents[2]
FILES = 1_024
WITHIN_S = 60.0


class Process:
    """The process of ``tests.attacks.board``."""

    def __init__(self):
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.board", str(FILES)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.url = self.child.stdout.readline().strip()
        self.port = int(self.url.rpartition(":")[2])
        self.turn = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for(1)

    def _read(self):
        for line in self.child.stdout:
            self.turn = int(line)

    def wait_for(self, turn):
        until = time.monotonic() + WITHIN_S
        while self.turn < turn:
            assert self.child.poll() is None, self.child.stderr.read()[-2_000:]
            assert time.monotonic() < until, f"it stopped at turn {self.turn}"
            time.sleep(0.02)

    def connect(self, sent=b""):
        stranger = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        stranger.sendall(sent)
        return stranger

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=WITHIN_S) as reply:
            return json.load(reply)

    def sockets(self):
        links = []
        for link in Path(f"/proc/{self.child.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(str(link.readlink()))
        return sum(link.startswith("socket:") for link in links)

    def end(self):
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self._reader.join()
        self.child.stdout.close()
        self.child.stderr.close()


@pytest.fixture(scope="module")
def process():
    raised_file_limit()
    process = Process()
    try:
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def closing(strangers):
    try:
        yield strangers
    finally:
        for stranger in strangers:
            stranger.close()


def status_of(stranger):
    """Return the status of the answer; 0 for none."""
    line = stranger.recv(4_096).split(b" ", 2)
    return int(line[1]) if len(line) > 1 else 0


def wait_closed(stranger):
    """Return once the other side has closed; what it sends until then is thrown away."""
    with contextlib.suppress(ConnectionError):
        while stranger.recv(65_536):
            pass


def test_thirteen_hundred_half_open_requests_neither_end_the_predictor_nor_keep_others_out(process):
    with closing([]) as strangers:
        for _ in range(1_300):
            strangers.append(process.connect(b"GET /predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "))
        process.wait_for(process.turn + 8)
        assert process.get("/livez")["live"] is True
        assert process.get("/predictions")[0]["instrument"] == "a:B"


@pytest.mark.parametrize("path", ["/predictions/a:B?limit=500", "/stream"])
def test_a_request_with_a_header_of_a_megabyte_is_refused_and_dropped(process, path):
    with closing([process.connect(f"GET {path} HTTP/1.1\r\nHost: a\r\nX: ".encode())]) as [stranger]:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(bytes([120]) * (1 << 20) + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert status_of(stranger) in {0, 400}
        wait_closed(stranger)
    assert process.get("/livez")["live"] is True


def test_listeners_beyond_half_of_the_connections_are_refused_and_others_are_still_answered(process):
    most = most_connections(FILES) // 2
    with closing([]) as strangers:
        strangers.extend(process.connect() for _ in range(most + 40))
        for stranger in strangers:  # all at once: many are read in one turn of the loop
            stranger.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert Counter(map(status_of, strangers)) == {200: most, 503: 40}
        assert process.get("/livez")["live"] is True
        process.wait_for(process.turn + 8)


def drip(stranger, stop):
    """Send a byte every half second, for as long as the other side takes it."""
    with contextlib.suppress(OSError):
        while not stop.wait(0.5):
            stranger.sendall(b"x")


@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/proc").exists(), reason="the sockets of a process are counted in /proc")
def test_strangers_who_take_their_time_are_dropped(process):
    before = process.sockets()
    head = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
    strangers = {
        "silent": process.connect(),
        "half a request": process.connect(head),
        "a byte now and then": process.connect(head + b"X: "),
        "half of a second request": process.connect(head + b"\r\n" + head),
        "a body now and then": process.connect(head + b"Content-Length: 1000\r\n\r\n"),
        "no reader": process.connect(),
    }
    stop = threading.Event()
    drips = [threading.Thread(target=drip, args=(s, stop)) for name, s in strangers.items() if "now and then" in name]
    with closing(strangers.values()):
        for thread in drips:
            thread.start()
        try:
            # It asks for some 50 MB and takes none of it, so that the answers wait in the process.
            ask = b"GET /predictions/a:B?limit=500 HTTP/1.1\r\nHost: a\r\n\r\n"
            strangers["no reader"].settimeout(1)
            with contextlib.suppress(TimeoutError, ConnectionError):
                strangers["no reader"].sendall(ask * 1_000)
            began = time.monotonic()
            assert process.get("/livez")["live"] is True
            open_still = set(strangers) - {"no reader"}
            while open_still:
                assert time.monotonic() - began < WITHIN_S, f"not dropped: {open_still}"
                open_still = {name for name in open_still if not is_closed(strangers[name])}
            while process.sockets() > before:
                assert time.monotonic() - began < WITHIN_S, "a client that reads nothing is kept"
                time.sleep(0.1)
        finally:
            stop.set()
            for thread in drips:
                thread.join()
    assert process.get("/livez")["live"] is True


def is_closed(stranger):
    """Tell within a moment whether the other side has closed."""
    stranger.settimeout(0.1)
    try:
        return not stranger.recv(65_536)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_body_that_breaks_off_badly_after_its_answer_is_no_event_of_the_log():
    process = Process()
    try:
        head = b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with closing([process.connect(head)]) as [stranger]:
            assert status_of(stranger) == 200
            stranger.sendall(b"ZZ\r\n")
            wait_closed(stranger)
        assert process.get("/livez")["live"] is True
        process.child.stdin.close()
        assert "Traceback" not in process.child.stderr.read()
    finally:
        process.end()
