"""The life of a live feed: one connection after the other, whose frames become trades in the order of their ids."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import structlog

from domain.errors import BadRecord, UsageError
from domain.events import Trade
from markets.connection import Backoff, Connection, Lost, open_connection
from markets.contiguous import Contiguous
from markets.feed import Health
from markets.outbox import Outbox
from markets.repairs import Repairs, Tape
from markets.source import Refused
from markets.tempo import Tempo
from markets.venue import Address, Closing, Notice, Rest, Venue

RestFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Rest]]
"""Makes a client for the event loop that enters it, and closes it on leaving."""

_ATTEMPT = "no connection; trying again"

MOST_REFUSED = 1_000
"""Refused frames that are kept until they are asked for."""


class Session:
    """Runs until it is cancelled or the user must change something.

    Parameters
    ----------
    venue, rest, address : the exchange
    orders : of each instrument, what was handed out
    outbox : where trades go
    tape : what hears of it, if anything does

    Attributes
    ----------
    connection : Connection or None
        The newest, while it lives.
    reconnects, bad_frames : int
    problem : str
        Why the last attempt to connect failed or the last connection ended, or what the exchange says is wrong with
        it; empty while all is well.
    repairs : Repairs
        What is done about what the stream leaves out.
    refused : deque of Refused
        The newest, for whoever takes them.
    """

    def __init__(self, venue: Venue, rest: RestFactory, address: Address, orders: Mapping[str, Contiguous],
                 outbox: Outbox, tempo: Tempo, tape: Tape | None = None) -> None:  # fmt: skip
        self._venue, self._rest, self._address = venue, rest, address
        self._orders, self._outbox, self._tempo, self._tape = orders, outbox, tempo, tape
        self.connection: Connection | None = None
        self.reconnects = self.bad_frames = 0
        self.problem = ""
        self.repairs = Repairs(venue, orders, outbox, tempo, tape)
        self.refused: deque[Refused] = deque(maxlen=MOST_REFUSED)
        self._strangers: set[str] = set()
        self._said = ""  # the last trouble that was logged
        self._noticed = ""  # what the exchange said last is wrong with it
        self._bad = 0  # connections in a row that did not last
        self._log = structlog.get_logger().bind(venue=venue.name)

    @property
    def health(self) -> Health:
        """What there is to say of it now."""
        orders, connection = self._orders.values(), self.connection
        return Health(
            connected=connection is not None,
            silent_s=None if connection is None else max(0.0, time.monotonic() - connection.heard),
            reconnects=self.reconnects,
            problem=self.problem,
            bad_frames=self.bad_frames,
            repaired=sum(order.repaired for order in orders),
            duplicates=sum(order.duplicates for order in orders),
            absent=sum(order.absent for order in orders),
            waiting=self.repairs.waiting,
            newest={name: order.newest for name, order in self._orders.items()},
            backlog=len(self._outbox),
        )

    async def run(self) -> None:
        """Hand out trades until cancelled.

        Raises
        ------
        ExceptionGroup
            Of a UsageError: the exchange refuses a request or a subscription.
        """
        async with self._rest() as rest, asyncio.TaskGroup() as group:
            for name in self._orders:
                group.create_task(self.repairs.tend(rest, name))
            await self._listen(group)

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        """Keep a connection, and put the next one in place before a planned end of it."""
        backoff = Backoff(self._tempo.backoff_s, self._tempo.backoff_most_s)
        old: asyncio.Task[None] | None = None
        while True:
            connection = await self._connected(backoff)
            reading = group.create_task(self._read(connection))
            if old is not None:
                await asyncio.wait({old}, timeout=self._tempo.overlap_s)
                old.cancel()
            left_s = max(0.0, self._venue.lifetime_s - connection.age_s)
            parting = group.create_task(connection.parting.wait())
            await asyncio.wait({reading, parting}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            parting.cancel()
            good = backoff.lasted(connection.age_s)
            self._bad, self._said = (0, "") if good else (self._bad + 1, self._said)
            old = None if reading.done() else reading
            if old is None or not good:
                await asyncio.sleep(backoff.next())
            self.reconnects += 1

    async def _connected(self, backoff: Backoff) -> Connection:
        url, messages = self._venue.stream(self._address.stream, tuple(self._orders))
        while True:
            try:
                connection = await open_connection(url, messages, self._venue.silence_s)
            except Lost as lost:
                self._trouble(_ATTEMPT, str(lost))
                await asyncio.sleep(backoff.next())
                continue
            if _telling(self._bad):
                self._log.info("connected", url=url)
            self.connection, self.problem = connection, ""
            self.repairs.subscribed()
            return connection

    async def _read(self, connection: Connection) -> None:
        """Take what a connection gives until it ends."""
        try:
            while True:
                frames = await connection.batch()
                await self._outbox.room()
                self._take(connection, frames)
        except Lost as lost:
            if not connection.parting.is_set():
                self._trouble("connection lost; opening another", str(lost))
        finally:
            if self.connection is connection:
                self.connection = None
            await connection.leave()

    def _take(self, connection: Connection, frames: list[bytes]) -> None:
        """Hand out whose turn it is; the rest waits for REST."""
        if self._tape is not None:
            self._tape.frames(frames)
        orders = self._orders
        out: list[Trade] = []
        early: set[str] = set()
        for frame in frames:
            for trade in self._trades(connection, frame):
                order = orders.get(trade.instrument)
                if order is None:
                    self._stranger(trade.instrument)
                elif not order.take(trade, out):
                    early.add(trade.instrument)
        if out:
            self._outbox.put(out)
        for name in early:
            self.repairs.gap(name)

    def _trades(self, connection: Connection, frame: bytes) -> Sequence[Trade]:
        """Return the trades of a frame; heed what else the exchange says."""
        try:
            return self._venue.read(frame)
        except Closing as closing:
            self._log.info("the exchange will close the connection; opening another", reason=str(closing))
            connection.parting.set()
        except Notice as notice:
            self._notice(str(notice))
        except UsageError as error:
            self._unsubscribed(error)
        except BadRecord as error:
            self._refuse(frame, error)
        return ()

    def _refuse(self, frame: bytes, error: BadRecord) -> None:
        self.bad_frames += 1
        if _telling(self.bad_frames):
            said = {"reason": str(error), "frames": self.bad_frames, "frame": frame[:200]}
            self._log.error("frames cannot be read; REST is asked instead", **said)
        self.refused.append(Refused(frame, error))
        self.repairs.spoilt()

    def _stranger(self, name: str) -> None:
        if name not in self._strangers:
            self._strangers.add(name)
            self._log.warning("trades that nobody asked for are dropped", instrument=name)

    def _notice(self, words: str) -> None:
        if words:
            self._log.warning("the exchange says what is wrong with it", said=words)
        elif self.problem and self.problem == self._noticed:
            self._log.info("the exchange says that all is well")
        else:
            return  # what else is wrong stays
        self.problem = self._noticed = words

    def _unsubscribed(self, error: UsageError) -> None:
        """Go on where the instruments were read before: it is the exchange that changed, and others may be left."""
        if all(order.newest is None for order in self._orders.values()):
            raise error
        self._trouble("a subscription is refused; REST is asked instead", str(error))

    def _trouble(self, event: str, reason: str) -> None:
        """Say what is wrong; where connections do not last, the same reason ever more seldom."""
        if reason != self._said or (event != _ATTEMPT and _telling(self._bad)):
            self._log.warning(event, reason=reason)
        self.problem = self._said = reason


def _telling(count: int) -> bool:
    """Return whether this one in a row is said: the first, second, fourth, eighth ..., so that no log fills up."""
    return count & (count - 1) == 0
