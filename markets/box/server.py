"""The box itself: a server on loopback that is Binance and Kraken to whoever asks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from domain.errors import UsageError
from markets.box.binance_archive import BinanceArchive
from markets.box.binance_rest import BinanceRest
from markets.box.binance_stream import BinanceStream
from markets.box.broadcast import Broadcast
from markets.box.budget import Budget
from markets.box.clock import MarketClock
from markets.box.door import HEAD_BYTES, Door, Unwelcome, order
from markets.box.faults import Faults
from markets.box.kraken_rest import KrakenRest
from markets.box.kraken_stream import KrakenStream
from markets.box.market import Market
from markets.box.verbatim import Verbatim
from markets.box.wire import MESSAGE_BYTES, Wire
from markets.source import Source
from markets.venue import Address

WEIGHT_A_MINUTE = 6_000
"""What requests may weigh together in a minute at Binance."""

PING_S, _PONG_S = 20.0, 60.0
"""Seconds between the server's pings, and until a connection that does not answer is ended."""

_json = msgspec.json.Encoder().encode


class Box:
    """An exchange on 127.0.0.1.

    Parameters
    ----------
    source
        Of trades.
    clock
        Until when they have happened; where a new one begins, see ``opening_of``.
    port : int
        0 takes any that is free.
    faults
        What goes wrong.
    frames
        The frame files of the source, if it is made of such: Binance's streams are then verbatim.
    weight_a_minute : int
        Binance's budget.
    ping_s : float
        Wall seconds between pings.
    on_tick
        Called by the serving loop every second.

    Raises
    ------
    UsageError
        When the source has no trades, an instrument cannot be listed, or the port is taken.
    """

    def __init__(
        self,
        source: Source,
        clock: MarketClock,
        port: int = 0,
        faults: Faults | None = None,
        frames: Sequence[Path] = (),
        weight_a_minute: int = WEIGHT_A_MINUTE,
        ping_s: float = PING_S,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._faults = faults or Faults()
        self._market = Market(source, self._clock)
        self._frames = frames
        self._broadcast = Broadcast(self._market, self._faults)
        self._budget = Budget(weight_a_minute)
        self._socket = _listening(port)
        self.url = f"127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._app(), http=Door, ws=Wire, lifespan="on",
            log_level="warning", access_log=False, h11_max_incomplete_event_size=HEAD_BYTES, ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False, ws_ping_interval=ping_s, ws_ping_timeout=_PONG_S,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._error: BaseException | None = None

    @property
    def address(self) -> Address:
        """Where it answers, as Binance and as Kraken."""
        return Address(f"http://{self.url}", f"ws://{self.url}")

    def run(self) -> None:
        """Serve until stopped, or until a signal where this is the main thread."""
        self._server.run(sockets=[self._socket])
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let ``run`` return soon."""
        self._server.should_exit = True

    def state(self) -> dict[str, object]:
        """Return what ``GET /box`` tells: the clock, who listens, and what was sent and spoilt."""
        return {
            "simulated": self._market.simulated,
            "instruments": [listing.instrument for listing in self._market.listings],
            "now": self._clock.now(),
            "speed": self._clock.speed,
            "connections": sum(subscriber.wire.open for subscriber in self._broadcast.subscribers),
            "trades_happened": self._broadcast.happened,
            "trades_sent": self._broadcast.sent,
            "weight_used": self._budget.used,
            "faults_injected": self._faults.injected,
            "faults_pending": self._faults.pending,
        }

    def _app(self) -> Starlette:
        rest = BinanceRest(self._market, self._budget, self._faults.refusal)
        routes = [
            *rest.routes(),
            *BinanceArchive(self._market, self._faults).routes(),
            *BinanceStream(self._market, self._broadcast, Verbatim(self._frames) if self._frames else None).routes(),
            *KrakenRest(self._market, self._faults.refusal).routes(),
            *KrakenStream(self._market, self._broadcast).routes(),
            Route("/box", self._told),
            Route("/box/faults", self._spoil, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lives)

    @asynccontextmanager
    async def _lives(self, app: Starlette) -> AsyncIterator[None]:
        del app
        running = asyncio.create_task(self._broadcast.run())
        running.add_done_callback(self._ended)
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            running.cancel()
            ticking.cancel()
            await asyncio.wait([running, ticking])
            self._clock.stop()

    async def _tick(self) -> None:
        while True:
            self._on_tick()
            await asyncio.sleep(1.0)

    def _ended(self, running: asyncio.Task[None]) -> None:
        """Do not go on serving a market that stands still because of a mistake."""
        if not running.cancelled():
            self._error = running.exception()
            self.stop()

    async def _told(self, request: Request) -> Response:
        del request
        return _reply(self.state())

    async def _spoil(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(await order(request), type=_Wanted)
            self._faults.inject(wanted.kind, wanted.n)
        except Unwelcome as unwelcome:
            reply = _reply({"error": str(unwelcome)}, unwelcome.status)
            reply.headers["connection"] = "close"  # there may be more of its body to come
            return reply
        except (msgspec.MsgspecError, RecursionError, UsageError) as error:
            return _reply({"error": str(error)}, 400)
        return _reply({"injected": self._faults.injected})


def opening_of(source: Source) -> int:
    """Return where a market begins that never ran: after a simulated one's declared history, before a recorded one's.

    ns since epoch UTC.
    """
    spans = [source.span(instrument) for instrument in source.instruments]
    return max(last for _, last in spans) if source.simulated else min(first for first, _ in spans) - 1


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """A fault that somebody wants; see ``faults.KINDS``."""

    kind: str
    n: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


def _reply(value: object, status: int = 200) -> Response:
    return Response(_json(value), status, media_type="application/json")


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()  # whoever knows the port may connect, and is served once it runs
    except OSError as error:
        listening.close()
        raise UsageError(f"port {port} is taken; give --port a free one, or 0 for any") from error
    return listening
