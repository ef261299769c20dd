"""Kraken's public WebSocket interface, version 2: the trade channel.

References
----------
https://docs.kraken.com/api/docs/websocket-v2/trade and its neighbours
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import Annotated

import msgspec
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from domain.events import NANOS_PER_SECOND
from markets.box.broadcast import Broadcast, Subscriber
from markets.box.faults import Disturbed
from markets.box.market import Market
from markets.box.reel import Row
from markets.box.tape import UNIT
from markets.box.wire import framed, heard

HEARTBEAT_S = 1.0
BATCH = 100
"""Most trades in a frame."""

SNAPSHOT = 50
"""Trades in a snapshot."""

SYMBOLS = 200
"""Most symbols in a message."""

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class BatchFrames:
    """How trades are written: those of a symbol that follow each other share a frame.

    Attributes
    ----------
    symbols : of the listings, by place
    """

    symbols: tuple[str, ...]

    def __call__(self, trades: Disturbed) -> bytes:
        """Return the frames."""
        texts = self._texts(trades.rows)
        texts[: trades.spoilt] = [text.replace(b'"price":', b'"px":') for text in texts[: trades.spoilt]]
        return b"".join(framed(_update(texts[low:high])) for low, high in _cuts(trades))

    def snapshot(self, rows: Sequence[Row]) -> bytes:
        """Return the frame of what was traded last."""
        return framed(b'{"channel":"trade","type":"snapshot","data":[%b]}' % b",".join(self._texts(rows)))

    def _texts(self, rows: Sequence[Row]) -> list[bytes]:
        heads = [b'{"symbol":"%b","side":"' % symbol.encode() for symbol in self.symbols]
        return [
            b'%b%b","price":%d.%08d,"qty":%d.%08d,"ord_type":"market","trade_id":%d,"timestamp":"%b.%06dZ"}'
            % (heads[place], b"buy" if side > 0 else b"sell", price // UNIT, price % UNIT, size // UNIT, size % UNIT,
               trade_id, _second(ts // NANOS_PER_SECOND), ts % NANOS_PER_SECOND // 1_000)
            for place, ts, trade_id, price, size, side in rows
        ]  # fmt: skip


def _update(texts: Sequence[bytes]) -> bytes:
    return b'{"channel":"trade","type":"update","data":[%b]}' % b",".join(texts)


def _cuts(trades: Disturbed) -> Iterator[tuple[int, int]]:
    """Yield what shares a frame: what follows each other of one symbol, or of all where they are mixed."""
    rows, low = trades.rows, 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or at - low == BATCH or (rows[at][0] != rows[low][0] and not trades.mixed):
            yield low, at
            low = at


def rfc3339(ts: int) -> str:
    """Return a time to the microsecond.

    >>> rfc3339(1_695_628_177_708_706_999)
    '2023-09-25T07:49:37.708706Z'
    """
    return f"{_second(ts // NANOS_PER_SECOND).decode()}.{ts % NANOS_PER_SECOND // 1_000:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


class _Params(msgspec.Struct):
    channel: str = ""
    symbol: Annotated[list[str], msgspec.Meta(max_length=SYMBOLS)] = []
    snapshot: bool = False


class _Call(msgspec.Struct):
    method: str
    params: _Params = msgspec.field(default_factory=_Params)
    req_id: int | None = None


class KrakenStream:
    """The trade channel of one market.

    Parameters
    ----------
    market
        What is listed and was traded.
    broadcast
        Who sends the trades.
    """

    def __init__(self, market: Market, broadcast: Broadcast) -> None:
        self._market = market
        self._broadcast = broadcast
        self._form = BatchFrames(tuple(listing.kraken_symbol for listing in market.listings))
        self._connections = count(1)

    def routes(self) -> list[WebSocketRoute]:
        """Return where it answers."""
        return [WebSocketRoute("/v2", self._serve)]

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        number = next(self._connections)
        subscriber = Subscriber(websocket.state.wire, self._form, lambda: self._status("maintenance", number))
        session = _Session(subscriber, self._market, self._form, self._broadcast)
        subscriber.wire.tell(self._status("online", number))
        with self._broadcast.listening(subscriber):
            beating = asyncio.create_task(session.beat())
            try:
                while True:
                    subscriber.wire.tell(session.answer(await heard(websocket)))
            except WebSocketDisconnect:
                return
            finally:
                beating.cancel()

    def _status(self, system: str, number: int) -> bytes:
        data = {"version": "2.0.10", "system": system, "api_version": "v2", "connection_id": number}
        return framed(_json({"channel": "status", "type": "update", "data": [data]}))


class _Session:
    """One connection: what it subscribed to, and what it asks."""

    def __init__(self, subscriber: Subscriber, market: Market, form: BatchFrames, broadcast: Broadcast) -> None:
        self._subscriber = subscriber
        self._market = market
        self._form = form
        self._broadcast = broadcast

    async def beat(self) -> None:
        """Say that the connection lives, in each second without a trade, once anything was subscribed to."""
        wire = self._subscriber.wire
        told = wire.told
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._subscriber.places and wire.told == told:
                wire.tell(framed(b'{"channel":"heartbeat"}'))
            told = wire.told

    def answer(self, text: str) -> bytes:
        """Return the frames that answer a message."""
        received = rfc3339(self._market.clock.now())
        try:
            call = msgspec.json.decode(text, type=_Call)
        except (msgspec.MsgspecError, RecursionError) as error:
            return _acknowledged({"error": f"Malformed request: {error}", "success": False}, None, received)
        match call.method, call.params.channel:
            case "ping", _:
                return _acknowledged({"method": "pong"}, call.req_id, received)
            case "subscribe" | "unsubscribe", "trade":
                change = self._subscribed if call.method == "subscribe" else self._unsubscribed
                return b"".join(
                    _acknowledged({"method": call.method, **reply}, call.req_id, received) + more
                    for symbol in call.params.symbol
                    for reply, more in [change(symbol, call.params)]
                )
            case "subscribe" | "unsubscribe", channel:
                reply = {"method": call.method, "error": f"Channel {channel} not supported", "success": False}
            case method, _:
                reply = {"method": method, "error": f"Method {method} not supported", "success": False}
        return _acknowledged(reply, call.req_id, received)

    def _subscribed(self, symbol: str, params: _Params) -> tuple[dict[str, object], bytes]:
        """Return the reply, and the snapshot that follows it."""
        if symbol not in self._form.symbols:
            return _failed(symbol, f"Currency pair not supported {symbol}"), b""
        place = self._form.symbols.index(symbol)
        if place in self._subscriber.places:
            return _failed(symbol, "Already subscribed"), b""
        self._broadcast.wants(self._subscriber, self._subscriber.places | {place})
        result = {"channel": "trade", "symbol": symbol, "snapshot": params.snapshot}
        return {"result": result, "success": True}, self._snapshot(place) if params.snapshot else b""

    def _unsubscribed(self, symbol: str, params: _Params) -> tuple[dict[str, object], bytes]:
        del params
        places = {place for place in self._subscriber.places if self._form.symbols[place] != symbol}
        if len(places) == len(self._subscriber.places):
            return _failed(symbol, "Subscription Not Found"), b""
        self._broadcast.wants(self._subscriber, frozenset(places))
        return {"result": {"channel": "trade", "symbol": symbol}, "success": True}, b""

    def _snapshot(self, place: int) -> bytes:
        """Return the trades that were sent last, which are not sent again."""
        instrument = self._market.listings[place].instrument
        trades = self._market.tape.newest(instrument, self._broadcast.reached, SNAPSHOT)
        columns = (trades.ts, trades.trade_id, trades.price, trades.size, trades.side)
        rows = [(place, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        return self._form.snapshot(rows)


def _failed(symbol: str, error: str) -> dict[str, object]:
    return {"error": error, "success": False, "symbol": symbol}


def _acknowledged(reply: dict[str, object], req_id: int | None, received: str) -> bytes:
    numbered = {} if req_id is None else {"req_id": req_id}
    return framed(_json({**reply, **numbered, "time_in": received, "time_out": received}))
