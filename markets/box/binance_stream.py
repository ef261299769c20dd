"""Binance's public WebSocket interface: raw and combined streams of trades and of aggregates.

References
----------
https://github.com/binance/binance-spot-api-docs (web-socket-streams.md)
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from markets.box.binance_query import MS, US
from markets.box.binance_rest import aggregates
from markets.box.broadcast import Broadcast, Subscriber
from markets.box.faults import Disturbed
from markets.box.market import Market
from markets.box.reel import Row
from markets.box.tape import UNIT, Booked
from markets.box.verbatim import Verbatim
from markets.box.wire import framed, heard

MESSAGES_A_SECOND = 5
"""What a connection may send; beyond, it is closed."""

STREAMS = 1_024
"""What a connection may listen to."""

_LONGEST_NAME = 100

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class TradeFrames:
    """How trades are written on a connection.

    Attributes
    ----------
    symbols : of the listings, by place
    combined : whether each event is wrapped with the name of its stream
    unit : ns in the unit of times
    verbatim : recorded events, where there are some; their times are in milliseconds
    singles, aggregates : places whose trades are wanted one by one, and as aggregates
    """

    symbols: tuple[str, ...]
    combined: bool
    unit: int
    verbatim: Verbatim | None = field(default=None, compare=False)
    singles: frozenset[int] = frozenset()
    aggregates: frozenset[int] = frozenset()

    def __call__(self, trades: Disturbed) -> bytes:
        """Return all frames; an event is sent a millisecond after it happened, as at the exchange."""
        if not self.aggregates:
            return self._trades(trades)
        singles = self._trades(trades._replace(rows=[row for row in trades.rows if row[0] in self.singles]))
        return singles + b"".join(self._aggregates(place, trades.rows) for place in sorted(self.aggregates))

    def _aggregates(self, place: int, rows: Sequence[Row]) -> bytes:
        """Return a frame for each aggregate of a listing, made of its trades as they are sent."""
        mine = [row[1:] for row in rows if row[0] == place]
        if not mine:
            return b""
        ts, ids, price, size, side = np.array(mine, np.int64).T
        booked = Booked(ts, ids, price, size, quote=np.zeros_like(size), side=side, cursor=ts)  # both are not told
        symbol, later = self.symbols[place], MS // self.unit
        events = (
            {"e": "aggTrade", "E": told["T"] + later, "s": symbol, **told} for told in aggregates(booked, self.unit)
        )
        return b"".join(framed(self._wrapped(place, b"aggTrade", _json(event))) for event in events)

    def _trades(self, trades: Disturbed) -> bytes:
        """Return a frame for each trade."""
        sound = [self._template(place) for place in range(len(self.symbols))]
        broken = [text.replace(b'"p":', b'"price":').replace(b'"q":', b'"quantity":') for text in sound]
        unit, later = self.unit, MS // self.unit
        verbatim = self.verbatim if unit == MS else None
        frames = []
        for n, (place, ts, trade_id, price, size, side) in enumerate(trades.rows):
            at = ts // unit
            event = verbatim.event(self.symbols[place], trade_id) if verbatim and n >= trades.spoilt else None
            if event is not None:
                frames.append(framed(self._wrapped(place, b"trade", event)))
                continue
            frames.append(
                framed(
                    (broken if n < trades.spoilt else sound)[place]
                    % (at + later, trade_id, price // UNIT, price % UNIT, size // UNIT, size % UNIT, at,
                       b"true" if side < 0 else b"false")
                )
            )  # fmt: skip
        return b"".join(frames)

    def _template(self, place: int) -> bytes:
        symbol = self.symbols[place]
        text = f'{{"e":"trade","E":%d,"s":"{symbol}","t":%d,"p":"%d.%08d","q":"%d.%08d","T":%d,"m":%b,"M":true}}'
        return self._wrapped(place, b"trade", text.encode())

    def _wrapped(self, place: int, stream: bytes, event: bytes) -> bytes:
        if not self.combined:
            return event
        return b'{"stream":"%b@%b","data":%b}' % (self.symbols[place].lower().encode(), stream, event)


class _Call(msgspec.Struct):
    method: str
    id: int | str | None = None
    params: list[str | bool] = []


class _BadCall(Exception):  # noqa: N818 - it names what happens
    """A message is answered with an error of the exchange."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class BinanceStream:
    """The streams of one market.

    Parameters
    ----------
    market
        What is listed.
    broadcast
        Who sends the trades.
    verbatim
        Recorded events to send instead of such as are made of the trades.
    """

    def __init__(self, market: Market, broadcast: Broadcast, verbatim: Verbatim | None) -> None:
        self._broadcast = broadcast
        self._verbatim = verbatim
        self._symbols = tuple(listing.binance for listing in market.listings)
        self._now = market.clock.now

    def routes(self) -> list[WebSocketRoute]:
        """Return where it answers."""
        return [
            WebSocketRoute("/ws", self._raw),
            WebSocketRoute("/ws/{streams:path}", self._raw),
            WebSocketRoute("/stream", self._combined),
        ]

    async def _raw(self, websocket: WebSocket) -> None:
        await self._serve(websocket, websocket.path_params.get("streams", ""), combined=False)

    async def _combined(self, websocket: WebSocket) -> None:
        await self._serve(websocket, websocket.query_params.get("streams", ""), combined=True)

    async def _serve(self, websocket: WebSocket, streams: str, *, combined: bool) -> None:
        await websocket.accept()
        unit = US if websocket.query_params.get("timeUnit", "").lower() == "microsecond" else MS
        form = TradeFrames(self._symbols, combined, unit, self._verbatim)
        session = _Session(websocket, form, self._broadcast)
        subscriber = session.subscriber
        subscriber.farewell = lambda: self._farewell(combined=session.form.combined)
        with self._broadcast.listening(subscriber):
            try:
                session.subscribe([name for name in streams.split("/") if name])
                await session.run()
            except _BadCall as bad:
                await websocket.close(1008, str(bad))
            except WebSocketDisconnect:
                return

    def _farewell(self, *, combined: bool) -> bytes:
        event = {"e": "serverShutdown", "E": self._now() // MS}
        return framed(_json({"stream": "!serverShutdown", "data": event} if combined else event))


class _Session:
    """One connection: what it subscribed to, and what it asks."""

    def __init__(self, websocket: WebSocket, form: TradeFrames, broadcast: Broadcast) -> None:
        self.form = form
        self.subscriber = Subscriber(websocket.state.wire, form, bytes)
        self._websocket = websocket
        self._broadcast = broadcast
        self._streams: dict[str, None] = {}  # in the order of subscription

    def subscribe(self, names: Sequence[str]) -> None:
        """Send these streams too. Those that do not exist are taken without a word, as at the exchange."""
        wanted = self._streams | dict.fromkeys(names)
        if len(wanted) > STREAMS or any(len(name) > _LONGEST_NAME for name in names):
            raise _BadCall(2, f"Invalid request: at most {STREAMS} streams of {_LONGEST_NAME} characters")
        self._streams = wanted
        self._wanted()

    async def run(self) -> None:
        """Answer messages until the connection ends."""
        times: deque[float] = deque(maxlen=MESSAGES_A_SECOND)
        while True:
            text = await heard(self._websocket)
            now = time.monotonic()
            if len(times) == times.maxlen and now - times[0] < 1.0:
                await self._websocket.close(1008, "Too many requests")
                return
            times.append(now)
            self.subscriber.wire.tell(framed(_json(self._answer(text))))

    def _answer(self, text: str) -> dict[str, object]:
        call = None
        try:
            call = _called(text)
            return {"result": self._result(call), "id": call.id}
        except _BadCall as bad:
            return {"error": {"code": bad.code, "msg": str(bad)}, "id": call.id if call else None}

    def _result(self, call: _Call) -> object:
        names = [name for name in call.params if isinstance(name, str)]
        match call.method:
            case "SUBSCRIBE":
                self.subscribe(names)
            case "UNSUBSCRIBE":
                for name in names:
                    self._streams.pop(name, None)
                self._wanted()
            case "LIST_SUBSCRIPTIONS":
                return list(self._streams)
            case "GET_PROPERTY" | "SET_PROPERTY" if call.params[:1] != ["combined"]:
                raise _BadCall(0, "Unknown property")
            case "GET_PROPERTY":
                return self.form.combined
            case "SET_PROPERTY":
                if not isinstance(call.params[-1], bool):
                    raise _BadCall(1, "Invalid value type: expected Boolean")
                self._write(replace(self.form, combined=call.params[-1]))
        return None

    def _wanted(self) -> None:
        singles, aggregates = (
            frozenset(place for place, symbol in enumerate(self.form.symbols) if symbol.lower() + kind in self._streams)
            for kind in ("@trade", "@aggTrade")
        )
        self._write(replace(self.form, singles=singles, aggregates=aggregates))
        self._broadcast.wants(self.subscriber, singles | aggregates)

    def _write(self, form: TradeFrames) -> None:
        self.form = self.subscriber.form = form


def _called(text: str) -> _Call:
    try:
        call = msgspec.json.decode(text, type=_Call)
    except msgspec.ValidationError as error:
        raise _BadCall(2, f"Invalid request: {error}") from error
    except msgspec.DecodeError as error:
        raise _BadCall(3, f"Invalid JSON: {error}") from error
    except RecursionError:
        raise _BadCall(3, "Invalid JSON: too deep") from None
    if call.method not in _METHODS:
        known = ", ".join(f"`{name}`" for name in _METHODS)
        raise _BadCall(2, f"Invalid request: unknown variant `{call.method}`, expected one of {known}")
    if isinstance(call.id, str) and not re.fullmatch(r"[A-Za-z0-9_-]{1,36}", call.id):
        raise _BadCall(2, "Invalid request: request ID must be an unsigned integer")
    return call
