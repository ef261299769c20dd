"""What strangers may take of an HTTP server of ours: connections, time, and bytes that wait for them.

A connection is *waiting* until the headers of a request are complete, and again once that is answered. One that waits
too long is closed; so is one that does not read its answer. Beyond the most connections the one that has waited longest
makes room, so that half-open requests never keep an honest one out; where all are being answered, the new one gets 503.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Seconds within which the headers of a request are complete, the next one's on a kept connection too."""

READ_S = 10.0
"""Seconds for which an answer may wait for a client that does not read."""

HEADERS_BYTES = 16 << 10
"""Of one request: its line and headers."""

MOST = 2_048
"""Connections at once, where the limit of open files allows as many."""

RESERVED = 256
"""Open files that no connection takes: the service's own databases, logs and sockets."""

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


def most_connections(files: int) -> int:
    """Return how many connections a process takes that may have so many files open.

    >>> most_connections(1_024), most_connections(1 << 20)
    (768, 2048)
    """
    return max(16, min(MOST, files - RESERVED))


def bounded(app: Any, most: int) -> Config:  # noqa: ANN401 - an ASGI application, for which uvicorn exports no type
    """Return the configuration of a server of ``app`` on a socket of its own, for ``most`` connections at once."""
    waiting: dict[_Connection, asyncio.TimerHandle] = {}

    class Bounded(_Connection):
        def __init__(self, **given: Any) -> None:  # noqa: ANN401 - whatever uvicorn gives its protocol
            super().__init__(waiting, most, **given)

    return Config(
        app,
        http=Bounded,
        ws="none",
        lifespan="off",
        # What strangers send is no event of ours: a line for each would fill the log.
        log_level="error",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADERS_BYTES,
    )


class _Connection(H11Protocol):
    """One connection; ``waiting`` holds those of its server that wait, the longest first."""

    def __init__(self, waiting: dict[_Connection, asyncio.TimerHandle], most: int, **given: Any) -> None:  # noqa: ANN401
        super().__init__(**given)
        self._waiting, self._most = waiting, most
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the base has it
        full = len(self.connections) >= self._most
        super().connection_made(transport)
        oldest = next(iter(self._waiting), None) if full else None
        if oldest is not None:
            oldest.end()
        elif full:
            transport.write(_FULL)
            transport.close()
            return
        self._note()

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # what cannot be answered any more
            self.end()
            return
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._forget()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(READ_S, self.end)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def end(self) -> None:
        """Close the connection now, whatever waits to be sent."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def _note(self) -> None:
        """Note whether the connection waits: its time runs from when it began to."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._forget_waiting()
        elif self not in self._waiting:
            self._waiting[self] = self.loop.call_later(HEADERS_S, self.end)

    def _forget(self) -> None:
        self._forget_waiting()
        self._forget_unread()

    def _forget_waiting(self) -> None:
        if (timer := self._waiting.pop(self, None)) is not None:
            timer.cancel()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
