"""The door of the box: how many connections there may be, and how long a request or its answer may take."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512
"""Connections at a time, of both kinds; beyond it the oldest one that has not asked anything is dropped."""

PATIENCE_S = 30.0
"""Seconds in which a request has come, and in which its answer is read."""

HEAD_BYTES = 16 << 10
"""Of a request line and its headers."""


BODY_BYTES = 4 << 10
"""Of a request that changes something."""


class Door(H11Protocol):
    """The server's side of a connection until it becomes a WebSocket.

    Notes
    -----
    It rests on the inside of uvicorn's protocol, which promises nothing: each limit is tested on real sockets.
    """

    patience_s = PATIENCE_S
    since = 0.0
    _upgraded = False

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - uvicorn's own says so
        """Take a connection in, in the place of another where there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # whatever is not read yet has its time, also when all is written
        self.since = self.loop.time()
        if len(self.connections) > MOST:
            doors = (one for one in self.connections if isinstance(one, Door) and one.silent)
            min(doors, key=lambda one: one.since).transport.abort()
        self._request, self._answer = self._limited(), self._limited()
        self._answer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what comes; the time of a request that does not come whole runs on."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # what cannot be answered any more
            self.transport.abort()
            return
        if self._whole():
            self._request.cancel()
        elif self._request.cancelled():
            self._request = self._limited()

    def handle_websocket_upgrade(self, event: Any) -> None:  # noqa: ANN401 - likewise
        """Leave the connection to the WebSocket, if half of all are left for requests."""
        if sum(not isinstance(one, Door) for one in self.connections) >= MOST // 2:
            self.send_400_response("too many WebSockets; try again later")
            return
        self._cancel()
        super().handle_websocket_upgrade(event)
        self._upgraded = True

    def pause_writing(self) -> None:
        """Give the client so long to read what it asked for."""
        super().pause_writing()
        self._answer.cancel()
        self._answer = self._limited()

    def resume_writing(self) -> None:
        """Go on."""
        self._answer.cancel()
        super().resume_writing()

    @property
    def silent(self) -> bool:
        """Whether it has not asked for anything yet."""
        cycle: Any = self.cycle
        return cycle is None and not self.transport.is_closing()

    def _whole(self) -> bool:
        """Whether nothing of a request is awaited: it has come whole, or this is not HTTP any more."""
        cycle: Any = self.cycle  # None before the first request, which uvicorn's types do not say
        return self._upgraded or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def _limited(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.patience_s, self.transport.abort)

    def _cancel(self) -> None:
        self._request.cancel()
        self._answer.cancel()


class Unwelcome(Exception):  # noqa: N818 - it names what happens
    """A request that changes something is refused.

    Parameters
    ----------
    status
        Of the answer.
    message
        What was wrong with it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def order(request: Request) -> bytes:
    """Return the body of a request that changes something, if no web page can have sent it.

    Raises
    ------
    Unwelcome
        When it is not JSON, is for another host, comes from a page of another origin, or is too long.

    Notes
    -----
    A page may send text to any address without asking; JSON it may not. A name that was made to mean this machine
    is in the host.
    """
    port = request.scope["server"][1]
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
    if request.headers.get("content-type") != "application/json":
        raise Unwelcome(415, "send it as Content-Type: application/json")
    if request.headers.get("host") not in hosts:
        raise Unwelcome(403, f"this is {hosts[0]}")
    if request.headers.get("origin") not in {None, *(f"http://{host}" for host in hosts)}:
        raise Unwelcome(403, "a page of another origin may not change anything here")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            raise Unwelcome(413, f"more than {BODY_BYTES} bytes")
    return body
