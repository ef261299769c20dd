"""One connection: frames in, each answered before the next is looked at; and what it holds of the broker's memory."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from math import inf
from typing import cast

from streaming.devbroker.connections import Connections
from streaming.devbroker.cursor import MalformedFrame

READ_AHEAD = 1 << 20
"""Bytes taken from a client while its last request is still being answered."""

PRODUCE = 0

_LENGTH = struct.Struct(">i")
_ANNOUNCED = struct.Struct(">ih")
"""What decides how large a frame may be: its length, and the kind of request it holds."""

_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds

_SMALLEST = 8
"""Bytes of the header that every request has."""

Answered = Callable[[bytes | bytearray, str], Awaitable[bytes | None]]
"""Returns the answer to a frame from a host, or None where the client wants none."""


class Connection(asyncio.Protocol):
    """A client, from the moment it is accepted.

    Parameters
    ----------
    connections
        All of them, which share limits.
    answered
        What answers a frame; raises MalformedFrame when it does not hold a request.

    Attributes
    ----------
    received, unsent : bytes held of requests not answered yet, and of answers not read yet
    deadline, awaited : by when (seconds of the event loop) something must have come, and what
    """

    def __init__(self, connections: Connections, answered: Answered) -> None:
        self.received = self.unsent = 0
        self.deadline, self.awaited = inf, ""
        self._all = connections
        self._answered = answered
        self._buffer = bytearray()
        self._head: asyncio.Future[None] | None = None  # waits for a whole frame
        self._drained: asyncio.Future[None] | None = None
        self._asked = self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve, if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self.host, self._port = transport.get_extra_info("peername")[:2]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.set_write_buffer_limits(0)
        self._await("a first request")
        self._task: asyncio.Task[None] | None = None
        if self._all.admitted(self):
            self._task = self._loop.create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; what its request waits for, nobody will read."""
        del exc
        self.end()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data
        self._hold(received=self.received + len(data))
        if self._head is not None:
            self._look()
        elif len(self._buffer) >= READ_AHEAD:
            self._pause(pause=True)

    def pause_writing(self) -> None:
        """Note that an answer, or the rest of one, waits for its reader."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on when it has all been read."""
        waiting, self._drained = self._drained, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def drop(self, reason: str) -> None:
        """End the connection at once, whatever it still waits for."""
        self._all.complaints.note("connection closed", client=f"{self.host}:{self._port}", reason=reason)
        if self.unsent:  # what the system holds of it goes, too
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.end()

    def end(self) -> None:
        """End the connection at once and let go of everything it holds."""
        self._transport.abort()
        self._all.forget(self)
        self._buffer = bytearray()
        self._hold(received=0, unsent=0)
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            while True:
                frame = await self._frame()
                answer = await self._answered(frame, f"/{self.host}")
                if not self._asked:
                    self._asked = True
                    self._all.proven(self)
                if answer is not None:
                    self._transport.write(answer)
                del frame, answer  # while it waits for its reader, an answer is held once, by the transport
                await self._drain()
                self._hold(received=len(self._buffer))
        except MalformedFrame as error:
            self.drop(str(error))
        except Exception:  # noqa: BLE001 - it is logged, with its traceback
            # One request's failure ends one connection; its client asks again, the others never notice.
            self._all.complaints.note("request failed", failure=True, client=f"{self.host}:{self._port}")
            self.end()

    async def _frame(self) -> bytes | bytearray:
        """Return the next whole frame."""
        self._head = self._loop.create_future()
        self._pause(pause=False)
        self._look()
        if self._head.done():  # requests sent ahead take turns with those of other clients
            await asyncio.sleep(0)
        await self._head
        self._head, self.deadline = None, inf
        (length,) = _LENGTH.unpack_from(self._buffer)
        end = _LENGTH.size + length
        if len(self._buffer) == end:  # as a large one mostly is: without a copy
            frame, self._buffer = self._buffer, bytearray()
            del frame[: _LENGTH.size]
            return frame
        with memoryview(self._buffer) as view:
            copied = bytes(view[_LENGTH.size : end])
        del self._buffer[:end]
        return copied

    def _look(self) -> None:
        """See whether the frame that has begun is whole, and whether it may be what it says it is."""
        if self._head is None or self._head.done() or not self._buffer:
            return
        if len(self._buffer) >= _ANNOUNCED.size:
            length, api = _ANNOUNCED.unpack_from(self._buffer)
            most = self._all.limits.produce_bytes if api == PRODUCE else self._all.limits.request_bytes
            if not _SMALLEST <= length <= most:
                self._head.set_exception(MalformedFrame(f"a frame of {length} bytes for request {api}"))
                return
            if len(self._buffer) >= _LENGTH.size + length:
                self._head.set_result(None)
                return
        if self.deadline == inf:
            self._await("the rest of a request")

    async def _drain(self) -> None:
        """Wait until the client has read what it was answered."""
        if self._drained is not None:
            self._await("its reader to take an answer")
            self._hold(unsent=self._transport.get_write_buffer_size())
            await self._drained
            self.deadline = inf
            self._hold(unsent=0)

    def _await(self, what: str) -> None:
        self.deadline, self.awaited = self._loop.time() + self._all.limits.patience_s, what

    def _pause(self, *, pause: bool) -> None:
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def _hold(self, *, received: int | None = None, unsent: int | None = None) -> None:
        """Tell what is held now; the one that holds most may be dropped for it."""
        before = self.received, self.unsent
        self.received = self.received if received is None else received
        self.unsent = self.unsent if unsent is None else unsent
        self._all.held(self.received - before[0], self.unsent - before[1])
