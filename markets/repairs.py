"""What the streams of a live feed leave out, told by REST: at once where a trade shows it, by audit where none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import structlog

from domain.errors import BadRecord, Unavailable, UsageError
from domain.events import NANOS_PER_SECOND, Trade
from domain.tables import TradeTable
from markets.connection import Backoff
from markets.contiguous import Contiguous
from markets.outbox import Outbox
from markets.tempo import Tempo
from markets.venue import Rest, Venue

_SAY_S = 10.0


class Tape(Protocol):
    """What hears of a feed while it runs: a recorder."""

    def frames(self, frames: list[bytes]) -> None:
        """Frames as they came."""

    def trades(self, trades: list[Trade]) -> None:
        """Trades that were handed out; now and then none."""

    def repaired(self, instrument: str, after: int | None, last: int, trades: int) -> None:
        """So many trades were told by REST, of ids above ``after`` and up to ``last``."""

    def close(self) -> None:
        """There is nothing more."""


class Repairs:
    """Keeps each instrument whole.

    Parameters
    ----------
    venue : how its REST interface reads
    orders : of each instrument, what was handed out
    outbox : where trades go
    tape : what hears of repairs
    """

    def __init__(
        self, venue: Venue, orders: Mapping[str, Contiguous], outbox: Outbox, tempo: Tempo, tape: Tape | None
    ) -> None:
        self._missing: dict[str, str] = {}  # instruments of which REST does not tell what the stream left out, and why
        self._halted: dict[str, tuple[int | None, str]] = {}  # those not traded since which trade, and why
        self._venue, self._orders, self._outbox, self._tempo, self._tape = venue, orders, outbox, tempo, tape
        self._alarms = {name: asyncio.Event() for name in orders}
        self._audits = dict.fromkeys(orders, 0.0)  # when, by the loop's clock: at the start, at once
        self._audit_s = max(tempo.audit_s, tempo.audit_each_s * len(orders))
        self._log = structlog.get_logger().bind(venue=venue.name)

    @property
    def waiting(self) -> dict[str, str]:
        """Instruments that get nothing at present, and why: they would skip something, or are not traded."""
        halted = list(self._halted.items())  # another thread asks
        told = {name: why for name, (last, why) in halted if self._orders[name].newest == last}
        return told | self._missing

    def gap(self, name: str) -> None:
        """Take note that the stream has left something out of an instrument."""
        self._alarms[name].set()

    def subscribed(self) -> None:
        """Take note of a new connection: what came before it is asked for where no trade shows that there is none."""
        self._audit_in(self._tempo.settle_s)

    def spoilt(self) -> None:
        """Take note that something came which could not be read; what it told is anybody's."""
        self._audit_in(self._audit_s / 6)

    async def tend(self, rest: Rest, name: str) -> None:
        """Repair an instrument at the start and whenever there is reason to, until cancelled."""
        order, alarm = self._orders[name], self._alarms[name]
        loop = asyncio.get_running_loop()
        last, since = order.newest, loop.time()
        while True:
            before = order.newest
            try:
                async with asyncio.timeout_at(self._audits[name]):
                    await alarm.wait()
            except TimeoutError:
                self._audits[name] = loop.time() + self._audit_s
                if order.newest == before and order.anew is not None:
                    self._wait(name, f"it counts its trades anew, from {order.anew.trade_id}; begin with another home")
                elif order.newest == before:
                    await self._repair(rest, name)
                if order.newest != last:
                    last, since = order.newest, loop.time()
                elif loop.time() - since >= self._tempo.quiet_s:
                    since = loop.time()
                    await self._ask_whether_traded(rest, name)
            else:
                alarm.clear()
                if order.behind:
                    await asyncio.sleep(self._tempo.grace_s)
                if order.behind:
                    await self._repair(rest, name)

    def _audit_in(self, seconds: float) -> None:
        """Look at every instrument that gets no trade until then, or earlier if that was to be."""
        due = asyncio.get_running_loop().time() + seconds
        for name, alarm in self._alarms.items():
            self._audits[name] = min(due, self._audits[name])
            alarm.set()

    async def _ask_whether_traded(self, rest: Rest, name: str) -> None:
        newest = self._orders[name].newest
        try:
            await self._venue.check(rest, [name])
        except (UsageError, Unavailable, BadRecord) as error:
            if self._halted.get(name) != (newest, str(error)):
                self._log.warning("no trades", instrument=name, after=newest, reason=str(error))
            self._halted[name] = newest, str(error)
        else:
            self._halted.pop(name, None)

    async def _repair(self, rest: Rest, name: str) -> None:
        """Hand out what REST knows, until the stream goes on from there or, while that is quiet, there is no more."""
        order, tempo = self._orders[name], self._tempo
        first, known = order.newest, (order.repaired, order.absent)
        backoff = Backoff(tempo.retry_s, tempo.retry_most_s)
        loop = asyncio.get_running_loop()
        before, moved = first, loop.time()
        while (reason := await self._asked(rest, name)) is not None or order.behind:
            if order.newest != before:
                before, moved = order.newest, loop.time()
                if not order.behind:  # the stream goes on where it was: nothing was left out
                    break
            if reason is not None or loop.time() - moved >= tempo.patience_s:
                self._wait(name, reason or "it does not know yet what the stream has left out")
            await asyncio.sleep(backoff.next())
        if self._missing.pop(name, None) is not None:
            self._log.info("waiting no longer", instrument=name)
        trades, absent = order.repaired - known[0], order.absent - known[1]
        if trades:
            self._log.info("filled from REST", instrument=name, after=first, trades=trades, absent=absent)
            if self._tape is not None:
                self._tape.repaired(name, first, order.newest or 0, trades)

    async def _asked(self, rest: Rest, name: str) -> str | None:
        """Hand out what REST tells, for as long as the stream does not tell more; return why it could not be asked."""
        # A client of REST is patient for minutes, and says nothing until it gives up.
        silent = asyncio.get_running_loop().call_later(self._tempo.patience_s, self._unanswered, name)
        pages = self._venue.trades(rest, name, self._orders[name].after)
        said = time.monotonic()
        try:
            async for page in pages:
                await self._outbox.room()
                if self._filled(name, page):
                    break
                if time.monotonic() - said > _SAY_S:
                    said = time.monotonic()
                    seconds = (time.time_ns() - int(page.ts[-1])) // NANOS_PER_SECOND
                    self._log.info("catching up from REST", instrument=name, behind_s=seconds)
        except UsageError as error:
            if self._orders[name].newest is None:  # else it has read the instrument: it is the exchange that changed
                raise
            return str(error)
        except (Unavailable, BadRecord) as error:
            return str(error)
        finally:
            silent.cancel()
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()
        return None

    def _filled(self, name: str, page: TradeTable) -> bool:
        """Hand out a page of trades; tell whether the stream is ahead of it."""
        if not len(page):
            return False
        order = self._orders[name]
        joining = order.behind
        columns = (page.ts, page.trade_id, page.price, page.size, page.side)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        out: list[Trade] = []
        order.fill([Trade(name, *row) for row in rows], out)
        self._outbox.put(out)
        return order.newest != int(page.trade_id[-1]) or (joining and not order.behind)

    def _unanswered(self, name: str) -> None:
        if self._orders[name].behind and name not in self._missing:
            self._wait(name, "it has not answered yet")

    def _wait(self, name: str, reason: str) -> None:
        if name not in self._missing:
            self._log.warning("waiting for REST", instrument=name, after=self._orders[name].newest, reason=reason)
        self._missing[name] = reason
