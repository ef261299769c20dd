"""One WebSocket connection as the box needs it: many frames in one write, and every way a connection can go wrong."""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

_BUFFER = 1 << 20
"""Bytes that wait for a reader before the box, where it may, waits for it."""

_BEHIND = 16 << 20
"""Bytes behind which a reader is given up, as exchanges do with slow ones."""

MESSAGE_BYTES, _FRAGMENTS = 64 << 10, 64
"""Of a client's message, in so many frames at most."""

_SMALL, _LARGE = 126, 1 << 16


def framed(text: bytes) -> bytes:
    r"""Return a message as one unmasked text frame (RFC 6455, 5.2).

    Notes
    -----
    By hand, for the library takes longer over one frame than the box over all the rest of a trade.

    >>> framed(b"{}")
    b'\x81\x02{}'
    """
    n = len(text)
    if n < _SMALL:
        return b"\x81%c%b" % (n, text)
    if n < _LARGE:
        return b"\x81\x7e" + n.to_bytes(2, "big") + text
    return b"\x81\x7f" + n.to_bytes(8, "big") + text


async def heard(websocket: WebSocket) -> str:
    """Return the next message of a client, text or not.

    Raises
    ------
    WebSocketDisconnect
        When there will be none.
    """
    await asyncio.sleep(0)  # messages sent ahead take turns with those of others
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text: str | None = message.get("text")
    return message["bytes"].decode(errors="replace") if text is None else text


class Wire(WebSocketsSansIOProtocol):
    """The server's side of a connection; a handler finds its own as ``websocket.state.wire``.

    Notes
    -----
    It rests on the inside of uvicorn's protocol, which promises nothing: each kind of fault is tested on real sockets.
    """

    stalled = False
    told = 0  # bytes

    async def run_asgi(self) -> None:
        """Run the handler, having shown it its connection."""
        self.scope["state"]["wire"] = self
        self.transport.set_write_buffer_limits(high=_BUFFER)
        await super().run_asgi()

    @property
    def open(self) -> bool:
        """Whether the other side can still be told something."""
        return self.handshake_complete and not (self.close_sent or self.disconnected or self.transport.is_closing())

    @property
    def listening(self) -> bool:
        """Whether it is open and not stalled."""
        return self.open and not self.stalled

    def tell(self, frames: bytes) -> None:
        """Send frames, in order and without waiting; a reader that is too far behind is cut off."""
        if self.listening:
            self.transport.write(frames)
            self.told += len(frames)
            self._bound()

    @property
    def unread(self) -> int:
        """Bytes that wait for the reader."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def handle_ping(self) -> None:
        """Answer a ping; whoever pings and does not read is cut off like other slow readers."""
        super().handle_ping()
        self._bound()

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message; one of too many parts ends the connection."""
        if len(self.frames) >= _FRAGMENTS:
            self.vanish()
        else:
            super().handle_cont(event)

    def _bound(self) -> None:
        if self.unread > _BEHIND:
            self.vanish()

    async def drained(self) -> None:
        """Return when the reader has taken most of what it was sent, or is gone."""
        await self.writable.wait()

    def stall(self) -> None:
        """Leave the connection open and say nothing any more: no data, no pings, no answers."""
        self.stalled = True
        self.stop_keepalive()
        self.writable.set()

    def vanish(self) -> None:
        """End the connection without a closing handshake."""
        self.transport.abort()

    async def goodbye(self, code: int, reason: str) -> None:
        """Close the connection properly; a reader that is behind would only hear of it after all the rest."""
        if not self.writable.is_set():
            self.vanish()
        elif self.open:
            await self.send({"type": "websocket.close", "code": code, "reason": reason})

    def data_received(self, data: bytes) -> None:
        """Read what arrives; a stalled connection reads it too, and does nothing about it."""
        if not self.stalled:
            super().data_received(data)
