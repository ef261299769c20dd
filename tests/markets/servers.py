"""A small real HTTP server on loopback whose answers a test decides, and time that passes when it is slept through."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from markets.patience import Timing

DEADLINE_S = 20.0


@dataclass
class Asked:
    """A request as it arrived."""

    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]


Answer = Callable[[Asked], object]


class Cut:
    """An answer that announces more than it sends."""

    def __init__(self, body: bytes, announced: int, status: int = 200, headers: Mapping[str, str] | None = None):
        self.body, self.announced, self.status, self.headers = body, announced, status, dict(headers or {})

    async def __call__(self, scope, receive, send):
        headers = {"content-length": str(self.announced), **self.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": self.body})


class Slow:
    """An answer that takes longer than a test waits."""

    async def __call__(self, scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass


def html(status: int = 200, title: str = "Scheduled maintenance") -> Response:
    """A page instead of data."""
    page = f"<!doctype html>\n<html><head><title>{title}</title></head><body>...</body></html>"
    return Response(page, status, media_type="text/html")


def json(body: str, status: int = 200, **headers: str) -> Response:
    """An answer in JSON; a header's underscores are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, named, media_type="application/json")


@dataclass
class Server:
    """What is asked of it is kept; it answers with the next of ``script``, and then with ``answer``."""

    answer: Answer
    script: list[object] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope, receive, send):
        request = Request(scope)
        asked = Asked(request.url.path, dict(request.query_params), dict(request.headers))
        self.asked.append(asked)
        response = self.script.pop(0) if self.script else self.answer(asked)
        await response(scope, receive, send)

    @property
    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [asked.path for asked in self.asked]


@contextmanager
def serving(answer: Answer, script=(), **options) -> Iterator[Server]:
    """Serve on a free port while the block runs."""
    server = Server(answer, list(script))
    config = uvicorn.Config(
        server, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1, **options
    )
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not runner.started:
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    host = "localhost" if "ssl_certfile" in options else "127.0.0.1"
    scheme = "https" if "ssl_certfile" in options else "http"
    server.url = f"{scheme}://{host}:{runner.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


class Slept:
    """Time that passes only while somebody sleeps; ``waits`` are how long, in order."""

    def __init__(self, chance: Callable[[], float] = lambda: 0.5, wall: float = 1_700_000_000.0):
        self.now, self.wall, self.waits = 1_000.0, wall, []
        self.timing = Timing(lambda: self.now, lambda: self.wall + self.now - 1_000.0, self._sleep, chance)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
