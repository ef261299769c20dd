"""The predictor's HTTP API on loopback: latest and recent predictions, a server-sent event stream, and probes.

Every answer carries the model's version, its age and how much it had learned. Handlers only read a board that the
predictor's loop writes, so serving never delays a prediction.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from domain.errors import UsageError
from domain.events import Prediction
from domain.health import READY_LAG
from streaming.connections import bounded, most_connections
from streaming.descriptors import raised_file_limit
from streaming.metrics import CONTENT_TYPE, exposition
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats

if TYPE_CHECKING:
    from streaming.app import Pulse

KEPT = 500
"""Recent predictions kept per instrument."""

LIVE_S = 10.0
"""Seconds without a turn of the loop after which /livez says no: the loop turns at least twice a second."""

BACKLOG = 2_048
"""Connections that the kernel keeps until they are accepted."""

METRICS_S = 1.0
"""Seconds for which an exposition is served again: many who ask cost the database one look."""

_LIMIT = re.compile("[1-9][0-9]{0,2}")
"""What ``int`` takes beyond this (``1_0``, blanks, other digits) is a mistake of the person who asks."""

_json = msgspec.json.Encoder().encode


class Board:
    """What the predictor last said: written by its loop, read by the handlers."""

    def __init__(self, instruments: Sequence[str], *, simulated: bool) -> None:
        self._recent: dict[str, deque[Prediction]] = {name: deque(maxlen=KEPT) for name in instruments}
        self._simulated = simulated
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.pulse: Pulse | None = None
        self.turned = time.monotonic()

    def show(self, answers: Sequence[Prediction]) -> None:
        """Make predictions visible; called from the predictor's loop."""
        for answer in answers[-KEPT:]:
            self._recent[answer.instrument].append(answer)
        if self._loop is not None and self._listeners and answers:
            # At full speed a listener sees the newest of each batch; at market speed every one.
            self._loop.call_soon_threadsafe(self._tell, _json(self.served(answers[-1])))

    def served(self, p: Prediction) -> dict[str, object]:
        """Return a prediction as it is served."""
        return {**msgspec.structs.asdict(p), "model_age_s": p.model_age_s, "simulated": self._simulated}

    def latest(self) -> list[dict[str, object]]:
        """Return the newest prediction of each instrument."""
        return [self.served(prediction) for prediction in self.newest()]

    def newest(self) -> list[Prediction]:
        """Return the newest prediction of each instrument, as it was made."""
        return [recent[-1] for recent in self._recent.values() if recent]

    def recent(self, instrument: str, limit: int) -> list[dict[str, object]] | None:
        """Return the newest predictions of an instrument, newest first; None for an unknown one."""
        if instrument not in self._recent:
            return None
        return [self.served(p) for p in list(self._recent[instrument])[: -limit - 1 : -1]]

    @property
    def instruments(self) -> list[str]:
        """The instruments that can be asked for."""
        return list(self._recent)

    async def listen(self) -> AsyncIterator[bytes]:
        """Yield predictions as they are made; a listener that does not keep up misses the oldest."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1_000)
        self._listeners.add(queue)
        try:
            for answer in self.latest():
                yield _json(answer)
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def _tell(self, message: bytes) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)


class Server:
    """Serves a board on 127.0.0.1 from a thread of its own; what a stranger may take of it is bounded."""

    def __init__(self, board: Board, port: int, control: Control | None = None) -> None:
        self._board, self._port = board, port
        self.url = f"http://127.0.0.1:{port}"
        most = most_connections(raised_file_limit())
        self._server = uvicorn.Server(bounded(_app(board, control, most // 2), most))
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen.

        Raises
        ------
        UsageError
            When the port is taken.
        """
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", self._port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise UsageError(f"port {self._port} is taken; set TIDEMILL_SERVING_PORT to a free one") from error
        # The server closes the socket when it stops.
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="serving", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        if self._thread is not None:
            self._server.force_exit = True
            self._thread.join(timeout=5.0)


def _reply(value: object, status: int = 200) -> Response:
    return Response(_json(value), status, media_type="application/json")


def _app(board: Board, control: Control | None, most_streams: int) -> Starlette:
    handlers = _Handlers(board, control, most_streams)
    return Starlette(
        routes=[
            Route("/predictions", handlers.latest),
            Route("/predictions/{instrument:path}", handlers.recent),
            Route("/stream", handlers.stream),
            Route("/livez", handlers.livez),
            Route("/readyz", handlers.readyz),
            Route("/metrics", handlers.metrics),
        ]
    )


class _EventStream(StreamingResponse):
    """Predictions as they are made; ``left`` is called once when it is over, also when it never began."""

    def __init__(self, board: Board, left: Callable[[], None]) -> None:
        async def events() -> AsyncIterator[bytes]:
            async for message in board.listen():
                yield b"event: prediction\ndata: " + message + b"\n\n"

        super().__init__(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


class _Handlers:
    """What each route answers, from the board."""

    def __init__(self, board: Board, control: Control | None, most_streams: int) -> None:
        self._board, self._control, self._most_streams = board, control, most_streams
        self._streams = 0
        self._exposing, self._exposed, self._exposed_at = threading.Lock(), b"", -METRICS_S

    async def latest(self, request: Request) -> Response:
        wanted = request.query_params.get("instrument")
        return _reply(self._board.latest()) if wanted is None else self._recent(wanted, 1)

    async def recent(self, request: Request) -> Response:
        asked = request.query_params.get("limit", "100")
        limit = int(asked) if _LIMIT.fullmatch(asked) else 0
        if not 1 <= limit <= KEPT:
            return _reply({"error": f"limit must be a whole number from 1 to {KEPT}"}, 400)
        return self._recent(request.path_params["instrument"], limit)

    def _recent(self, instrument: str, limit: int) -> Response:
        found = self._board.recent(instrument, limit)
        if found is None:
            known = ", ".join(self._board.instruments)
            return _reply({"error": f"{instrument} is not served; ask for one of {known}"}, 404)
        if not found:
            return _reply({"error": f"no prediction for {instrument} yet; try again in a moment"}, 503)
        return _reply(found[0] if limit == 1 else found)

    async def stream(self, _request: Request) -> Response:
        if self._streams >= self._most_streams:
            return _reply({"error": f"{self._most_streams} listen already; try again later"}, 503)
        self._streams += 1  # before anything is awaited: many may ask in one turn of the loop
        return _EventStream(self._board, self._left)

    def _left(self) -> None:
        self._streams -= 1

    async def livez(self, _request: Request) -> Response:
        age = time.monotonic() - self._board.turned
        return _reply({"live": age < LIVE_S, "loop_age_s": round(age, 3)}, 200 if age < LIVE_S else 503)

    async def readyz(self, _request: Request) -> Response:
        pulse = self._board.pulse
        why = _unready(pulse, time.monotonic() - self._board.turned, predicted=bool(self._board.newest()))
        told = {"ready": not why, "lag": pulse.lag if pulse else None, **({"why": why} if why else {})}
        return _reply(told, 503 if why else 200)

    def metrics(self, _request: Request) -> Response:
        # Not async: the framework runs it in a thread, so that a slow database delays no stream.
        with self._exposing:
            if time.monotonic() - self._exposed_at >= METRICS_S:
                control, latest = self._control, self._board.newest()
                beats = Heartbeats(control).beats() if control is not None else []
                dead = control.dead_letters() if control is not None else {}
                self._exposed = exposition(beats, dead, latest, time.time()).encode()
                self._exposed_at = time.monotonic()
            return Response(self._exposed, media_type=CONTENT_TYPE)


def _unready(pulse: Pulse | None, loop_age_s: float, *, predicted: bool) -> str:
    """Return why not to be relied on now, as ``domain.health.ready`` judges the heartbeat; empty when it can be."""
    if pulse is None or not predicted:
        return "no prediction yet"
    if loop_age_s >= LIVE_S:
        return f"the loop has not turned for {loop_age_s:.0f} s"
    if pulse.lag is None:
        return "the broker does not answer"
    if pulse.lag > READY_LAG:
        return f"{pulse.lag:,} records behind"
    return "" if pulse.ready else "no model is loaded"
