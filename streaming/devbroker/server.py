"""The server: a port on the loopback, connections, and the life of the broker from its lock to its last sync."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import resource
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import structlog
from kio.schema.errors import ErrorCode

from domain.errors import UsageError
from streaming.devbroker import files
from streaming.devbroker.apis import API_VERSIONS, APIS, FETCH, PRODUCE, VERSIONS, offered
from streaming.devbroker.broker import Ask, Broker
from streaming.devbroker.cursor import MalformedFrame
from streaming.devbroker.fetch import fetch
from streaming.devbroker.log import Fsync
from streaming.devbroker.produce import produce
from streaming.devbroker.requests import is_flexible
from streaming.devbroker.wire import MAX_FRAME, call_of, decoded, encoded, framed

logger = structlog.get_logger(__name__)

TICK_S = 0.1
"""How late a silent member may be noticed."""

REPORT_S = 1.0
"""How often ``on_tick`` is told the figures, and the disk is synced under ``fsync=interval``."""

BUFFER_BYTES = 4 << 20
"""Read ahead and write behind of one connection: a few of a client's largest requests."""

_FSYNCS = ("never", "interval", "always")
_LENGTH = struct.Struct(">i")

Ready = Callable[[str], None]
Tick = Callable[[dict[str, object]], None]


def serve(
    data: Path, host: str, port: int, fsync: str, *, on_ready: Ready | None = None, on_tick: Tick | None = None
) -> None:
    """Run a broker in this process until SIGTERM or SIGINT, then close it cleanly. Call it on the main thread.

    Parameters
    ----------
    data
        The data directory, made when it is not there. ``DATA/address`` holds ``host:port`` while the broker listens.
    host
        A loopback address: the broker asks nobody who they are.
    port
        0 takes any free one.
    fsync : ``never``, ``interval`` or ``always``
        When what was written is put on the disk itself. ``never`` survives the death of the process, not the loss of
        power; ``interval`` loses at most about a second to it; ``always`` nothing that was acknowledged.
    on_ready
        Told ``host:port`` once, when the broker listens.
    on_tick
        Told the figures of `Broker.stats` every second.

    Raises
    ------
    UsageError
        When the address is not a loopback one, the port is taken, the directory in use, or the policy unknown.
    BadState
        When the catalog of topics cannot be read.
    """
    if fsync not in _FSYNCS:
        raise UsageError(f"fsync {fsync!r}: one of {', '.join(_FSYNCS)}")
    address = _loopback(host)
    _allow_many_files()
    with files.locked(data):
        (data / "address").unlink(missing_ok=True)
        broker = Broker(data, cast("Fsync", fsync))
        try:
            asyncio.run(_run(broker, data, address, port, on_ready, on_tick))
        finally:
            broker.close()
            (data / "address").unlink(missing_ok=True)


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    with suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            return address
    raise UsageError(f"host {host!r}: the dev broker asks nobody who they are, so it listens on 127.0.0.1 or ::1 only")


def _allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: every partition has one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(broker: Broker, data: Path, host: str, port: int, on_ready: Ready | None, on_tick: Tick | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(_connection(broker, reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    try:
        server = await asyncio.start_server(connected, host, port, limit=BUFFER_BYTES)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise UsageError(f"port {port} of {host} is taken; stop what listens there or choose another port") from error
    broker.host, broker.port = server.sockets[0].getsockname()[:2]
    listening = f"[{broker.host}]:{broker.port}" if ":" in broker.host else f"{broker.host}:{broker.port}"
    files.replace(data / "address", listening.encode())
    if on_ready:
        on_ready(listening)
    clock = loop.create_task(_clock(broker, on_tick))
    waiting = loop.create_task(stop.wait())
    await asyncio.wait((clock, waiting), return_when=asyncio.FIRST_COMPLETED)
    server.close()
    for task in (clock, waiting, *connections):
        task.cancel()
    ended, *_ = await asyncio.gather(clock, waiting, *connections, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


async def _clock(broker: Broker, on_tick: Tick | None) -> None:
    loop = asyncio.get_running_loop()
    report = loop.time()
    while True:
        broker.tick(loop.time())
        if loop.time() >= report:
            report = loop.time() + REPORT_S
            await broker.sync()
            if on_tick:
                on_tick(broker.stats())
        await asyncio.sleep(TICK_S)


async def _connection(broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client: its requests one after the other, as the protocol promises."""
    peer = writer.get_extra_info("peername")
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writer.transport.set_write_buffer_limits(BUFFER_BYTES)
    broker.connections += 1
    try:
        while True:
            answer = await _answered(broker, await _frame(reader), f"/{peer[0]}")
            if answer is not None:
                writer.write(answer)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    except MalformedFrame as error:
        logger.warning("connection closed", client=f"{peer[0]}:{peer[1]}", reason=str(error))
    except Exception:
        # One request's failure ends one connection; its client asks again, the others never notice.
        logger.exception("request failed", client=f"{peer[0]}:{peer[1]}")
    finally:
        broker.connections -= 1
        writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if not 0 < length <= MAX_FRAME:
        raise MalformedFrame(f"a frame of {length} bytes")
    return await reader.readexactly(length)


async def _answered(broker: Broker, frame: bytes, host: str) -> bytes | None:
    """Return the answer to a frame, or None when the client wants none.

    Raises
    ------
    MalformedFrame
        When it is no request, or one that is not served: like Apache Kafka, the broker hangs up then.
    """
    call = call_of(frame, host, flexible=_flexible)
    first, last = VERSIONS.get(call.api, (0, -1))
    if not first <= call.version <= last:
        if call.api == API_VERSIONS:  # how a client newer than the broker learns what it may ask
            return encoded(call, offered(ErrorCode.unsupported_version), version=0)
        raise MalformedFrame(f"request {call.api} version {call.version} is not served")
    if call.api == PRODUCE:
        fields = produce(broker, call, frame)
        return None if fields is None else framed(call, fields)
    if call.api == FETCH:
        return framed(call, await fetch(broker, call, frame))
    answer = APIS[call.api].handler(Ask(broker, call, decoded(call, frame)))
    return encoded(call, await answer if isinstance(answer, Awaitable) else answer)


def _flexible(api: int, version: int) -> bool:
    first, last = VERSIONS.get(api, (0, -1))
    return first <= version <= last and is_flexible(api, version)
