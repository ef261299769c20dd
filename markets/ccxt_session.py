"""The life of a feed through ccxt, which owns its connections: what it shows is put in order, doubts are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Mapping

import msgspec
import structlog

from domain.errors import BadRecord, Unavailable, UsageError
from domain.events import Trade
from markets.ascending import Ascending
from markets.ccxt_client import (
    KEPT,
    MS,
    Exchange,
    Make,
    Row,
    clock_of,
    demand_traded,
    errors_of,
    names_of,
    symbol_of,
    trade_of,
)
from markets.connection import Backoff
from markets.feed import Health
from markets.outbox import Outbox
from markets.source import Refused
from markets.tempo import Tempo

_HOUR_MS = 3_600_000
"""What an exchange may look through from a time on, before it answers that there was nothing."""

_MOST_REFUSED = 1_000
_STRIKES = 2
"""Audits in a row in which requests told trades that the stream had not shown, after which it counts as dead."""


class CcxtSession:
    """Runs until it is cancelled or the user must change something; see ``feed.Hearing``.

    Parameters
    ----------
    exchange, make : its name, and what makes clients of it
    orders : of each instrument, what was handed out
    outbox : where trades go
    """

    def __init__(
        self, exchange: str, make: Make, orders: Mapping[str, Ascending], outbox: Outbox, tempo: Tempo
    ) -> None:
        self._exchange, self._make, self._orders, self._outbox, self._tempo = exchange, make, orders, outbox, tempo
        self.refused: deque[Refused] = deque(maxlen=_MOST_REFUSED)
        self._client: Exchange | None = None
        self._names: Mapping[str, str] = {}
        self._alarms = {name: asyncio.Event() for name in orders}
        self._audit_s = max(tempo.audit_s, tempo.audit_each_s * len(orders))
        self._reconnects = self._bad = 0
        self._numbered = False
        self._unshown = dict.fromkeys(orders, 0)
        self._problems: dict[str, str] = {}
        self._waiting: dict[str, str] = {}
        self._log = structlog.get_logger().bind(venue=exchange)

    @property
    def health(self) -> Health:
        """What there is to say of it now; ``reconnects`` are subscriptions that were made anew."""
        orders, client = self._orders.values(), self._client
        heard = [] if client is None else [s.last_message_at for s in list(client.clients.values()) if not s.closed()]
        newest = max((at for at in heard if at is not None), default=None)
        return Health(
            connected=bool(heard),
            silent_s=None if newest is None or client is None else max(0.0, (client.milliseconds() - newest) / 1_000),
            reconnects=self._reconnects,
            problem=next(iter(list(self._problems.values())), ""),
            bad_frames=self._bad,
            repaired=sum(order.repaired for order in orders),
            duplicates=sum(order.duplicates for order in orders),
            absent=sum(order.absent for order in orders),
            waiting=dict(self._waiting),
            newest={name: order.newest for name, order in self._orders.items()},
            backlog=len(self._outbox),
        )

    async def run(self) -> None:
        """Hand out trades until cancelled.

        Raises
        ------
        ExceptionGroup
            Of a UsageError: the exchange refuses something, or does not number its trades.
        """
        backoff = Backoff(self._tempo.backoff_s, self._tempo.backoff_most_s)
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._hear()
            except* Unavailable as errors:
                self._trouble("", _first(errors))
            self._client = None
            backoff.lasted(asyncio.get_running_loop().time() - began)
            await asyncio.sleep(backoff.next())
            self._reconnects += 1

    async def _hear(self) -> None:
        async with self._make() as client:
            with errors_of(self._exchange):
                await client.load_markets()
            demand_traded(client, tuple(self._orders))
            self._names = names_of(client, tuple(self._orders))
            self._client = client
            async with asyncio.TaskGroup() as group:
                for name in self._orders:
                    group.create_task(self._watch(client, name))
                    group.create_task(self._tend(client, name))

    async def _watch(self, client: Exchange, name: str) -> None:
        """Take what a stream shows. Nothing is waited for in between, so that ccxt need not keep much."""
        symbol, order = symbol_of(name), self._orders[name]
        kept = client.options.get("tradesLimit")
        most = kept if isinstance(kept, int) else KEPT
        backoff, subscribed = Backoff(self._tempo.backoff_s, self._tempo.backoff_most_s), False
        while True:
            try:
                with errors_of(self._exchange):
                    rows = await client.watch_trades(symbol)
            except Unavailable as error:
                self._trouble(name, str(error))
                subscribed = False
                await asyncio.sleep(backoff.next())
                self._reconnects += 1
                continue
            if not subscribed:
                subscribed = True
                backoff.lasted(math.inf)
                self._problems.pop(name, None)
                self._problems.pop("", None)
                order.doubt()
            if len(rows) >= most:  # what came before these is lost
                order.doubt()
            self._show(name, rows)

    def _show(self, name: str, rows: list[Row]) -> None:
        shown: dict[str, list[Trade]] = {name: []}
        for trade in self._read(name, rows):
            shown.setdefault(trade.instrument, []).append(trade)
        for instrument, trades in shown.items():
            self._orders[instrument].show(trades)
            self._alarms[instrument].set()
            self._unshown[instrument] = 0

    def _read(self, name: str, rows: list[Row]) -> list[Trade]:
        trades = []
        for row in rows:
            try:
                trades.append(trade_of(self._exchange, name, self._names, row))
            except BadRecord as error:
                self._refuse(name, row, error)
            except UsageError as error:
                if not self._numbered:
                    raise
                self._refuse(name, row, BadRecord("schema", str(error)))  # the others have numbers
        self._numbered = self._numbered or bool(trades)
        return trades

    def _refuse(self, name: str, row: Row, error: BadRecord) -> None:
        if not self._bad:
            self._log.error("trades cannot be read", instrument=name, reason=str(error))
        self._bad += 1
        self.refused.append(Refused(msgspec.json.encode(row, enc_hook=str), error))

    async def _tend(self, client: Exchange, name: str) -> None:
        """Hand out what was shown; where there is a doubt, what requests tell of it first."""
        order, alarm, tempo = self._orders[name], self._alarms[name], self._tempo
        order.doubt()
        alarm.set()  # what came before the stream is asked for at once
        loop = asyncio.get_running_loop()
        before, due = order.newest, loop.time() + self._audit_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await alarm.wait()
            alarm.clear()
            over = loop.time() >= due
            quiet = over and order.newest == before
            if quiet:  # nobody says that nothing was traded
                order.doubt()
            await self._outbox.room()
            if order.behind:
                await asyncio.sleep(tempo.grace_s)
            told = 0
            while order.behind:
                told += await self._repair(client, name)
            self._hand_out(order, None)
            if quiet and told:
                self._unshown[name] += 1
                if self._unshown[name] == _STRIKES:
                    raise Unavailable(f"{self._exchange} tells trades of {name} that its stream does not show")
            if over:
                before, due = order.newest, loop.time() + self._audit_s

    async def _repair(self, client: Exchange, name: str) -> int:
        """Hand out what requests tell, up to what the stream has shown by now; return how many trades that were."""
        order, tempo = self._orders[name], self._tempo
        first, known, target = order.newest, (order.repaired, order.absent), order.ask()
        backoff, loop = Backoff(tempo.retry_s, tempo.retry_most_s), asyncio.get_running_loop()
        asked = loop.time()
        while True:
            try:
                with errors_of(self._exchange):
                    await self._ask(client, name, target)
            except Unavailable as error:
                if name not in self._waiting:
                    self._log.warning("waiting for REST", instrument=name, after=order.newest, reason=str(error))
                self._waiting[name] = str(error)
                asked = loop.time()
            else:
                self._waiting.pop(name, None)
                told = target is None or (order.newest is not None and order.newest >= target)
                if told or loop.time() - asked >= tempo.patience_s:
                    break
            await asyncio.sleep(backoff.next())
        if target is not None:
            self._hand_out(order, target)
        trades, absent = order.repaired - known[0], order.absent - known[1]
        if trades:
            self._log.info("filled from REST", instrument=name, after=first, trades=trades, absent=absent)
        return trades

    async def _ask(self, client: Exchange, name: str, target: int | None) -> None:
        """Hand out page after page, until one brings nothing new or all up to an id is told."""
        order = self._orders[name]
        since = order.after.after_ts // MS
        while True:
            rows = await client.fetch_trades(symbol_of(name), since)
            trades = [trade for trade in self._read(name, rows) if trade.instrument == name]
            await self._outbox.room()
            before = order.newest
            self._hand_out(order, order.fill(trades))
            if order.newest != before:
                since = max(since, order.after.after_ts // MS)
                if target is not None and order.newest is not None and order.newest >= target:
                    return
            elif rows or since + _HOUR_MS >= await clock_of(client) // MS:
                return
            else:
                since += _HOUR_MS

    def _hand_out(self, order: Ascending, last: int | None) -> None:
        if order.two_numberings:
            raise UsageError(
                f"{self._exchange} numbers its trades in its stream and on request differently, so that they cannot be "
                "read once and in order; choose another exchange"
            )
        self._outbox.put(order.release(last))

    def _trouble(self, name: str, reason: str) -> None:
        """Say what is wrong, once for each new reason."""
        if reason not in self._problems.values():
            self._log.warning("no connection; trying again", reason=reason)
        self._problems[name] = reason


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
