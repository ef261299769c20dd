"""The loop that lets the market happen: trades go to everybody who subscribed when their time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from markets.box.faults import Disturbed, Faults
from markets.box.market import Market
from markets.box.reel import Reel, Row
from markets.box.wire import Wire

TICK_S = 0.01
"""Wall seconds between two looks at the tape: what a trade waits at most, and what bounds the loop's cost."""

_ASLEEP_S = 0.25
"""Wall seconds without a look, at most: when nothing happens, faults still do."""

_MS = 1_000_000  # ns

_BLOCK = 2_048
"""Trades sent at a time where the reader sets the pace: half a megabyte."""

BEHIND_IN_ALL = 64 << 20
"""Bytes that may wait for slow readers, all of them together."""

Form: TypeAlias = Callable[[Disturbed], bytes]
"""Turns trades into the frames of an interface."""


@dataclass(eq=False)
class Subscriber:
    """A connection and what it wants.

    Attributes
    ----------
    wire : the connection
    form : how trades are written on it
    places : which listings it wants
    farewell : what is said before a shutdown
    """

    wire: Wire
    form: Form
    farewell: Callable[[], bytes]
    places: frozenset[int] = frozenset()


class Broadcast:
    """Everybody who listens.

    Parameters
    ----------
    market
        What happens, and when.
    faults
        What goes wrong with it.
    """

    def __init__(self, market: Market, faults: Faults) -> None:
        self.subscribers: set[Subscriber] = set()
        self.happened = self.sent = 0
        self.reached = _whole(market.clock.now())  # ns: until when trades were sent
        self._market, self._faults = market, faults
        self._reel = Reel(market.tape, market.listings, self.reached)
        self._wanted = asyncio.Event()

    @contextmanager
    def listening(self, subscriber: Subscriber) -> Iterator[None]:
        """Count a connection among those that are told, as long as it lasts."""
        self.subscribers.add(subscriber)
        try:
            yield
        finally:
            self.subscribers.discard(subscriber)

    def wants(self, subscriber: Subscriber, places: frozenset[int]) -> None:
        """Send a subscriber the trades of these listings from now on."""
        subscriber.places = places
        if places:
            self._wanted.set()

    async def run(self) -> None:
        """Let the market happen until cancelled."""
        clock = self._market.clock
        while True:
            self._faults.draw()
            await self._connection_faults()
            if leap := self._faults.taken("burst"):
                clock.advance(self._reel.after(leap) or 0)
            if not clock.speed:
                await self._lead()
            self.reached = _whole(clock.now())
            self._tell(self._reel.take(self.reached))
            self._bound()
            if clock.speed:
                await asyncio.sleep(min(max(TICK_S, clock.seconds_until(self._reel.next + _MS)), _ASLEEP_S))

    async def _lead(self) -> None:
        """Move a clock that goes as fast as the readers: when they have taken what there was, to the next trades."""
        while not self._listening():
            self._wanted.clear()
            await self._wanted.wait()
        for subscriber in self._listening():
            await subscriber.wire.drained()
        until = self._reel.after(_BLOCK)
        if until is None:
            await asyncio.sleep(_ASLEEP_S)
        else:
            self._market.clock.advance(_whole(until + _MS))
            await asyncio.sleep(0)

    def _listening(self) -> list[Subscriber]:
        """Return who wants something and can be told."""
        return [subscriber for subscriber in self.subscribers if subscriber.places and subscriber.wire.listening]

    def _tell(self, happened: list[Row]) -> None:
        self.happened += len(happened)
        listening = self._listening()
        if not happened or not listening:
            return
        sent = self._faults.disturbed(happened)
        written: dict[tuple[Form, frozenset[int]], tuple[bytes, int]] = {}
        for subscriber in listening:
            key = subscriber.form, subscriber.places
            if key not in written:
                theirs = [row for row in sent.rows if row[0] in subscriber.places]
                written[key] = subscriber.form(sent._replace(rows=theirs)), len(theirs)
            frames, n = written[key]
            subscriber.wire.tell(frames)
            self.sent += n

    def _bound(self) -> None:
        """Cut off the readers that are furthest behind, until what waits for all of them is little enough."""
        unread = {subscriber: subscriber.wire.unread for subscriber in self.subscribers}
        total = sum(unread.values())
        for subscriber in sorted(unread, key=unread.__getitem__, reverse=True):
            if total <= BEHIND_IN_ALL:
                break
            total -= unread[subscriber]
            subscriber.wire.vanish()

    async def _connection_faults(self) -> None:
        everybody = list(self.subscribers)
        if not everybody:
            return
        if self._faults.taken("vanish"):
            for subscriber in everybody:
                subscriber.wire.vanish()
        if self._faults.taken("stall"):
            for subscriber in everybody:
                subscriber.wire.stall()
        if self._faults.taken("shutdown"):
            for subscriber in everybody:
                subscriber.wire.tell(subscriber.farewell())
            await asyncio.sleep(1.0)
            await self._close(everybody)
        if self._faults.taken("close"):
            await self._close(everybody)

    async def _close(self, subscribers: Sequence[Subscriber]) -> None:
        for subscriber in subscribers:
            await subscriber.wire.goodbye(1012, "service restart")


def _whole(ts: int) -> int:
    """Return the last ns of the newest millisecond that is over: of one order's fills all are sent together, or none.

    >>> _whole(2_999_998), _whole(2_999_999), _whole(3_000_000)
    (1999999, 2999999, 2999999)
    """
    return (ts + 1) // _MS * _MS - 1
