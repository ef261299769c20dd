"""The life of a live feed: one connection after the other, and for each instrument the repair of what they left out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from domain.errors import BadRecord, Unavailable
from domain.events import Trade
from domain.tables import TradeTable
from markets.connection import Backoff, Connection, Lost, open_connection
from markets.contiguous import Contiguous
from markets.outbox import Outbox
from markets.venue import Address, Closing, Rest, Venue

RestFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Rest]]
"""Makes a client for the event loop that enters it, and closes it on leaving."""

MOST_REFUSED = 1_000
"""Refused frames that are kept until they are asked for."""


@dataclass(frozen=True)
class Tempo:
    """How quickly a feed acts, seconds.

    Attributes
    ----------
    grace_s : for a missing trade to arrive late, before REST is asked
    settle_s : for a new subscription to take effect, before REST is asked what came meanwhile
    audit_s : without a trade of an instrument, after which REST is asked whether there is truly none
    audit_each_s : an audit's share of the time, so that many instruments never use up what the venue allows
    retry_s, retry_most_s : bounds of the first and of any wait before REST is asked again
    patience_s : of REST being behind the stream, after which an instrument counts as waiting
    backoff_s, backoff_most_s : bounds of the first and of any wait before a connection is tried again
    good_s : a connection that lasted so long was good: the next failure is a first one
    overlap_s : that a connection is still read beside the one that replaces it
    """

    grace_s: float = 0.1
    settle_s: float = 1.0
    audit_s: float = 30.0
    audit_each_s: float = 2.0
    retry_s: float = 0.25
    retry_most_s: float = 10.0
    patience_s: float = 10.0
    backoff_s: float = 1.0
    backoff_most_s: float = 30.0
    good_s: float = 60.0
    overlap_s: float = 3.0


@dataclass(frozen=True)
class Refused:
    """A frame that was meant to be trades and could not be read."""

    frame: bytes
    error: BadRecord


class Tape(Protocol):
    """What is told of a session while it runs: a recorder."""

    def frames(self, frames: list[bytes]) -> None:
        """Frames as they came."""

    def trades(self, trades: list[Trade]) -> None:
        """Trades that were handed out."""

    def repaired(self, instrument: str, after: int | None, last: int, trades: int) -> None:
        """So many trades were told by REST, of ids above ``after`` and up to ``last``."""

    def close(self) -> None:
        """There is nothing more."""


class Session:
    """Runs until it is cancelled or the user must change something.

    Parameters
    ----------
    venue, rest, address : the exchange
    orders : of each instrument, what was handed out
    outbox : where trades go
    tape : what else is told, if anybody listens

    Attributes
    ----------
    connection : Connection or None
        The newest, while it lives.
    reconnects, bad_frames : int
    problem : str
        Why the last attempt to connect failed or the last connection ended; empty while all is well.
    waiting : dict
        Instruments that REST cannot tell about at present, and why; they get nothing rather than skip anything.
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
        self.waiting: dict[str, str] = {}
        self.refused: deque[Refused] = deque(maxlen=MOST_REFUSED)
        self._alarms = {name: asyncio.Event() for name in orders}
        self._audits = dict.fromkeys(orders, 0.0)  # when, by the loop's clock
        self._audit_s = max(tempo.audit_s, tempo.audit_each_s * len(orders))
        self._log = structlog.get_logger().bind(venue=venue.name)

    async def run(self) -> None:
        """Hand out trades until cancelled.

        Raises
        ------
        ExceptionGroup
            Of a UsageError: the exchange refuses a request or a subscription.
        """
        async with self._rest() as rest, asyncio.TaskGroup() as group:
            for name in self._orders:
                group.create_task(self._tend(rest, name))
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
            if connection.age_s >= self._tempo.good_s:
                backoff.reset()
            old = None if reading.done() else reading
            if old is None or connection.age_s < self._tempo.good_s:
                await asyncio.sleep(backoff.next())
            self.reconnects += 1

    async def _connected(self, backoff: Backoff) -> Connection:
        url, messages = self._venue.stream(self._address.stream, tuple(self._orders))
        while True:
            try:
                connection = await open_connection(url, messages, self._venue.silence_s)
            except Lost as lost:
                self._trouble("no connection; trying again", str(lost))
                await asyncio.sleep(backoff.next())
                continue
            self._log.info("connected", url=url)
            self.connection, self.problem = connection, ""
            self._audit_in(self._tempo.settle_s)
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
        read, orders = self._venue.read, self._orders
        out: list[Trade] = []
        early: set[str] = set()
        for frame in frames:
            try:
                trades = read(frame)
            except Closing as closing:
                self._log.info("the exchange will close the connection; opening another", reason=str(closing))
                connection.parting.set()
                continue
            except BadRecord as error:
                self._refuse(frame, error)
                continue
            for trade in trades:
                order = orders.get(trade.instrument)
                if order is not None and not order.take(trade, out):
                    early.add(trade.instrument)
        if out:
            self._outbox.put(out)
        for name in early:
            self._alarms[name].set()

    def _refuse(self, frame: bytes, error: BadRecord) -> None:
        if not self.bad_frames:
            self._log.error("frames cannot be read; REST is asked instead", reason=str(error), frame=frame[:200])
        self.bad_frames += 1
        self.refused.append(Refused(frame, error))
        self._audit_in(self._audit_s / 6)

    async def _tend(self, rest: Rest, name: str) -> None:
        """Repair an instrument, at the start and whenever there is reason to."""
        order, alarm = self._orders[name], self._alarms[name]
        loop = asyncio.get_running_loop()
        while True:
            before = order.newest
            try:
                async with asyncio.timeout_at(self._audits[name]):
                    await alarm.wait()
            except TimeoutError:
                self._audits[name] = loop.time() + self._audit_s
                if order.newest == before:
                    await self._repair(rest, name)
            else:
                alarm.clear()
                if order.behind:
                    await asyncio.sleep(self._tempo.grace_s)
                if order.behind:
                    await self._repair(rest, name)

    async def _repair(self, rest: Rest, name: str) -> None:
        """Hand out what REST knows, until the stream goes on from there or, while that is quiet, there is no more."""
        order, tempo = self._orders[name], self._tempo
        first, known = order.newest, (order.repaired, order.absent)
        backoff = Backoff(tempo.retry_s, tempo.retry_most_s)
        began = asyncio.get_running_loop().time()
        while True:
            try:
                await self._ask(rest, name)
                if not order.behind:
                    break
                reason = "REST does not know yet what the stream has passed over"
                patience_s = tempo.patience_s
            except (Unavailable, BadRecord) as error:
                reason, patience_s = str(error), 0.0
            if asyncio.get_running_loop().time() - began >= patience_s:
                if name not in self.waiting:
                    self._log.warning("waiting for REST to fill a gap", instrument=name, after=first, reason=reason)
                self.waiting[name] = reason
            await asyncio.sleep(backoff.next())
        if self.waiting.pop(name, None) is not None:
            self._log.info("REST answers again", instrument=name)
        trades, absent = order.repaired - known[0], order.absent - known[1]
        if trades:
            last = order.after.after_trade_id or 0
            self._log.info("filled from REST", instrument=name, after=first, trades=trades, absent=absent)
            if self._tape is not None:
                self._tape.repaired(name, first, last, trades)

    async def _ask(self, rest: Rest, name: str) -> None:
        """Hand out what REST tells, page by page, for as long as the stream does not tell more."""
        order = self._orders[name]
        pages = self._venue.trades(rest, name, order.after)
        try:
            async for page in pages:
                if not len(page):
                    continue
                await self._outbox.room()
                joining = order.behind
                out: list[Trade] = []
                order.fill(_trades(name, page), out)
                self._outbox.put(out)
                if order.newest != int(page.trade_id[-1]) or (joining and not order.behind):
                    return  # the stream is ahead of this page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    def _audit_in(self, seconds: float) -> None:
        """Look at every instrument that gets no trade until then, or earlier if that was to be."""
        due = asyncio.get_running_loop().time() + seconds
        for name, alarm in self._alarms.items():
            self._audits[name] = min(due, self._audits[name])
            alarm.set()

    def _trouble(self, event: str, reason: str) -> None:
        """Say what is wrong, once for each new reason."""
        if reason != self.problem:
            self._log.warning(event, reason=reason)
        self.problem = reason


def _trades(name: str, page: TradeTable) -> Iterable[Trade]:
    columns = (page.ts, page.trade_id, page.price, page.size, page.side)
    return [Trade(name, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
