"""What strangers of a port do, and what its clients must not notice of it."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

MIB = 1 << 20
DEADLINE_S = 60.0
"""For what takes milliseconds on a quiet machine."""


def resident(pid: int) -> int:
    """Return the resident memory of a process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def descriptors(pid: int) -> int:
    """Return how many files and connections a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connected(port: int) -> socket.socket:
    """Return a connection to a port of this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


@contextmanager
def crowd(port: int, n: int) -> Iterator[list[socket.socket]]:
    """Yield so many connections that have sent nothing yet, none of which waits for anything."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as opened:
        many = [opened.enter_context(connected(port)) for _ in range(n)]
        for one in many:
            one.setblocking(False)
        yield many


def pushed(one: socket.socket, data: bytes) -> int:
    """Send what the other side takes just now; return how much, -1 when it has hung up."""
    try:
        return one.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return -1


def hung_up(one: socket.socket) -> bool:
    """Return whether the other side ends the connection within the deadline, having said whatever it says."""
    one.settimeout(DEADLINE_S)
    try:
        while one.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def framed(body: bytes) -> bytes:
    """Return a frame of the Kafka protocol."""
    return struct.pack(">i", len(body)) + body


def head(api: int, version: int) -> bytes:
    """Return the header of a request, without tagged fields."""
    return struct.pack(">hhihs", api, version, 77, 1, b"c")


VERSIONS = framed(head(18, 0))
"""ApiVersions: the first that any client asks."""


def answer(one: socket.socket) -> bytes:
    """Return the next frame that a connection is answered, empty when it is closed."""
    start = one.recv(4, socket.MSG_WAITALL)
    return one.recv(struct.unpack(">i", start)[0], socket.MSG_WAITALL) if start else b""


def asked(one: socket.socket) -> float:
    """Return in how many seconds a client is answered."""
    began = time.monotonic()
    one.sendall(VERSIONS)
    assert answer(one)
    return time.monotonic() - began
