"""A real exchange as a source: candles for history, and a feed of its trades without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np
import structlog

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND, Trade
from domain.tables import BarTable
from markets.contiguous import MOST_HELD, Contiguous
from markets.findings import utc
from markets.outbox import Outbox
from markets.repairs import Tape
from markets.session import RestFactory, Session
from markets.source import Kind, Refused, Resume, rows_of
from markets.tempo import Tempo
from markets.venue import Address, Rest, Venue

_SAY_S = 5.0

_LATE_NS, _LONGEST_S = 3 * NANOS_PER_SECOND, 30.0
"""How long after its end a candle may still be unknown to REST, and the longest wait for one, seconds."""


class Live:
    """An exchange; see ``source.Source``. Its history is candles, its feed is trades.

    Parameters
    ----------
    venue, rest : how the exchange reads, and what makes clients of its REST interface
    instruments : ``venue:SYMBOL``
    opens_ns : int
        Where history ends and the feed begins, ns since epoch UTC.
    history_ns : int
        How far ``span`` reaches back.
    interval : int
        Length of a candle of its history, ns.
    address : where it answers; None means the real one
    simulated : whether the prices are made up, as in a box that serves the simulated market
    tempo : how quickly a feed acts
    record : where each feed is recorded, if anywhere
    """

    kind: Kind = "trades"

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        venue: Venue,
        rest: RestFactory,
        instruments: Sequence[str],
        opens_ns: int,
        history_ns: int,
        *,
        interval: int = NANOS_PER_MINUTE,
        address: Address | None = None,
        simulated: bool = False,
        tempo: Tempo | None = None,
        record: Path | None = None,
    ) -> None:
        self.instruments, self.interval, self.simulated = tuple(instruments), interval, simulated
        self._venue, self._rest, self._address = venue, rest, address or venue.address
        self._opens, self._history = opens_ns, history_ns
        self._tempo, self._record = tempo or Tempo(), record

    def span(self, instrument: str) -> tuple[int, int]:
        """Return the declared history: from its first day to the opening."""
        del instrument  # all have the same
        return self._opens - self._history, self._opens

    def history(self, instrument: str, start: int, end: int) -> Iterator[BarTable]:
        """Yield the candles that end in ``(start, end]``; see ``Source.history``. Not from within an event loop.

        Raises
        ------
        UsageError
            When the exchange has no such instrument or no candles of this length.
        Unavailable
            When it cannot be reached for longer than patience lasts.
        """
        said = time.monotonic()
        with asyncio.Runner() as runner:
            pages = self._candles(instrument, start, end)
            try:
                while (page := runner.run(_next(pages))) is not None:
                    if time.monotonic() - said > _SAY_S:
                        said = time.monotonic()
                        done = f"{(int(page.ts[-1]) - start) / (end - start):.0%}"
                        structlog.get_logger().info("fetching candles", instrument=instrument, done=done)
                    yield from _by_day(page)
            finally:
                runner.run(pages.aclose())

    def open(self, resume: Mapping[str, Resume], speed: float) -> LiveFeed:
        """Open the feed: without a resume, at the opening. An exchange knows one speed."""
        del speed
        start, share = Resume(self._opens - 1), MOST_HELD // len(self.instruments)
        orders = {name: Contiguous(resume.get(name, start), share) for name in self.instruments}
        outbox = Outbox()
        tape = self._tape()
        session = Session(self._venue, self._rest, self._address, orders, outbox, self._tempo, tape)
        return LiveFeed(session, orders, outbox, tape)

    def _tape(self) -> Tape | None:
        if self._record is None:
            return None
        from markets.recorder import Recorder  # Arrow costs a third of a second, and few record

        return Recorder(self._record, self._venue.name, self._address, self.instruments, simulated=self.simulated)

    def now(self) -> int:
        """Return the exchange's time, ns since epoch UTC, when it trades all instruments.

        Raises
        ------
        UsageError
            When one is unknown there.
        Unavailable
            When it cannot be reached for longer than patience lasts, or trading is halted.
        """
        return asyncio.run(self._asked())

    async def _asked(self) -> int:
        async with self._rest() as rest:
            await self._venue.check(rest, self.instruments)
            return await self._venue.now(rest)

    async def _demand_told(self, rest: Rest, start: int, end: int) -> None:
        """Wait until the exchange tells all of a window: a candle that it does not tell would pass for no trades."""
        now, kept = await self._venue.now(rest), self._venue.candles_kept
        if kept is not None and start < (oldest := (now // self.interval - kept) * self.interval):
            raise Unavailable(
                f"{self._venue.name}: candles are asked for from {utc(start)}, but the exchange tells none before "
                f"{utc(oldest)}; choose later days: what streamed in stays as it is"
            )
        ahead_s = (end + _LATE_NS - now) / NANOS_PER_SECOND
        if ahead_s > _LONGEST_S:
            raise Unavailable(
                f"{self._venue.name}: candles are asked for until {utc(end)}, which is {ahead_s:.0f} s ahead of the "
                "exchange's clock; choose earlier days, or wait"
            )
        await asyncio.sleep(max(0.0, ahead_s))

    async def _candles(self, instrument: str, start: int, end: int) -> AsyncGenerator[BarTable, None]:
        async with self._rest() as rest:
            await self._demand_told(rest, start, end)
            async for page in self._venue.candles(rest, instrument, self.interval, start, end):
                if len(page):
                    yield page


class Health(TypedDict):
    """What there is to say of a feed; counts are since it was opened.

    Attributes
    ----------
    connected : whether a connection is open
    silent_s : seconds since anything came over it, pings included; None without one
    reconnects : connections that took the place of one before
    problem : why there is no connection; empty while there is one
    bad_frames : frames that could not be read
    repaired, duplicates, absent : trades that REST told, trades dropped as known, ids that do not exist
    waiting : instruments that get nothing at present, and why
    newest : of each instrument, the id of the last trade that can be polled
    backlog : trades that wait to be polled
    """

    connected: bool
    silent_s: float | None
    reconnects: int
    problem: str
    bad_frames: int
    repaired: int
    duplicates: int
    absent: int
    waiting: dict[str, str]
    newest: dict[str, int | None]
    backlog: int


class LiveFeed:
    """The trades of an exchange, as they happen; see ``source.Feed``. What is handed out is what is recorded.

    Of one instrument they come strictly by id and each once; of several, in the order in which they could be handed
    out. One thread hears the exchange; when nobody polls it stops reading, and REST fills what the exchange then drops.
    """

    def __init__(self, session: Session, orders: Mapping[str, Contiguous], outbox: Outbox, tape: Tape | None) -> None:
        self._session, self._orders, self._outbox, self._tape = session, orders, outbox, tape
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(session.run())
        self._thread = threading.Thread(target=self._run, name="live feed", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it was closed: an exchange has no end."""
        return self._closed

    @property
    def health(self) -> Health:
        """What there is to say of it now."""
        session, orders = self._session, self._orders.values()
        connection = session.connection
        return Health(
            connected=connection is not None,
            silent_s=None if connection is None else max(0.0, time.monotonic() - connection.heard),
            reconnects=session.reconnects,
            problem=session.problem,
            bad_frames=session.bad_frames,
            repaired=sum(order.repaired for order in orders),
            duplicates=sum(order.duplicates for order in orders),
            absent=sum(order.absent for order in orders),
            waiting=dict(session.repairs.waiting),
            newest={name: order.newest for name, order in self._orders.items()},
            backlog=len(self._outbox),
        )

    def poll(self, max_events: int, timeout_s: float) -> list[Trade]:
        """Return trades; see ``source.Feed.poll``, and above for their order.

        Raises
        ------
        UsageError
            When the exchange refuses a subscription or a request.
        """
        if self._closed:
            return []
        trades = self._outbox.take(max_events, timeout_s)
        if self._tape is not None:  # without trades too, for it writes now and then
            self._tape.trades(trades)
        return trades

    def refused(self) -> list[Refused]:
        """Return the frames, since the last call, that were meant to be trades and could not be read."""
        refused = []
        with contextlib.suppress(IndexError):
            while True:
                refused.append(self._session.refused.popleft())
        return refused

    def close(self) -> None:
        """End connections, loop and thread, and the recording."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        if self._tape is not None:
            self._tape.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - whoever polls gets it
            self._outbox.fail(_cause(error))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


def _cause(error: BaseException) -> BaseException:
    """Return what ended a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _next(pages: AsyncGenerator[BarTable, None]) -> BarTable | None:
    return await anext(pages, None)


def _by_day(table: BarTable) -> Iterator[BarTable]:
    """Yield a table in parts within one UTC day each; a bar that ends at midnight belongs to the day it ends."""
    days = (table.ts - 1) // NANOS_PER_DAY
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(table)]
    for start, stop in pairwise(cuts):
        yield rows_of(table, slice(start, stop))
