"""The server: a port on the loopback, connections, and the life of the broker from its lock to its last sync."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from domain.errors import UsageError
from streaming.descriptors import raised_file_limit
from streaming.devbroker import files
from streaming.devbroker.broker import Broker
from streaming.devbroker.complaints import Complaints
from streaming.devbroker.connection import Connection
from streaming.devbroker.connections import Connections
from streaming.devbroker.dispatch import answered
from streaming.devbroker.limits import (
    FEWEST_CONNECTIONS,
    MAX_PARTITIONS_IN_ALL,
    RESERVED_FILES,
    Limits,
)
from streaming.devbroker.log import Fsync

TICK_S = 0.1
"""How late a silent member may be noticed."""

REPORT_S = 1.0
"""How often deadlines are looked at, ``on_tick`` is told the figures and ``fsync=interval`` syncs the disk."""

_FSYNCS = ("never", "interval", "always")

Ready = Callable[[str], None]
Tick = Callable[[dict[str, object]], None]


def serve(
    data: Path,
    host: str,
    port: int,
    fsync: str,
    *,
    limits: Limits | None = None,
    on_ready: Ready | None = None,
    on_tick: Tick | None = None,
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
    limits
        What clients may take; there are never more connections than the limit of open files leaves room for.
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
    open_files = raised_file_limit()
    with files.locked(data):
        (data / "address").unlink(missing_ok=True)
        broker = Broker(data, cast("Fsync", fsync), max_partitions=min(MAX_PARTITIONS_IN_ALL, open_files // 2))
        room = open_files - RESERVED_FILES - max(broker.topics.max_partitions, len(broker.topics.logs))
        limits = limits or Limits()
        limits = replace(limits, connections=max(min(limits.connections, room), FEWEST_CONNECTIONS))
        try:
            asyncio.run(_run(broker, limits, data, address, port, on_ready, on_tick))
        finally:
            broker.close()
            (data / "address").unlink(missing_ok=True)


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    with suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            return address
    raise UsageError(f"host {host!r}: the dev broker asks nobody who they are, so it listens on 127.0.0.1 or ::1 only")


async def _run(
    broker: Broker, limits: Limits, data: Path, host: str, port: int, on_ready: Ready | None, on_tick: Tick | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections = Connections(limits, Complaints())
    try:
        server = await loop.create_server(partial(Connection, connections, partial(answered, broker)), host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise UsageError(f"port {port} of {host} is taken; stop what listens there or choose another port") from error
    broker.host, broker.port = server.sockets[0].getsockname()[:2]
    listening = f"[{broker.host}]:{broker.port}" if ":" in broker.host else f"{broker.host}:{broker.port}"
    files.replace(data / "address", listening.encode())
    if on_ready:
        on_ready(listening)
    clock = loop.create_task(_clock(broker, connections, on_tick))
    waiting = loop.create_task(stop.wait())
    await asyncio.wait((clock, waiting), return_when=asyncio.FIRST_COMPLETED)
    server.close()
    connections.close()
    for task in (clock, waiting):
        task.cancel()
    ended, *_ = await asyncio.gather(clock, waiting, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


async def _clock(broker: Broker, connections: Connections, on_tick: Tick | None) -> None:
    loop = asyncio.get_running_loop()
    report = loop.time()
    while True:
        broker.tick(loop.time())
        if loop.time() >= report:
            report = loop.time() + REPORT_S
            connections.sweep(loop.time())
            broker.connections = len(connections)
            await broker.sync()
            if on_tick:
                on_tick(broker.stats())
        await asyncio.sleep(TICK_S)
