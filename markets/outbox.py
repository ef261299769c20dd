"""Trades on their way from the thread that hears an exchange to the one that polls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque

from domain.events import Trade

MOST_WAITING = 100_000
"""Trades that may wait to be polled: some 15 MB, and several bursts of the kind that exchanges see in a second."""


class Outbox:
    """A bounded queue between an event loop, which puts, and one other thread, which takes.

    The bound is kept by whoever puts, by waiting for ``room`` before it reads more.
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._trades: deque[Trade] = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._starved: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._trades)

    async def room(self) -> None:
        """Return when less than the bound is waiting."""
        while True:
            with self._changed:
                if len(self._trades) < self._most:
                    return
                self._room.clear()
                self._starved = asyncio.get_running_loop()
            await self._room.wait()

    def put(self, trades: list[Trade]) -> None:
        """Add trades, however many."""
        with self._changed:
            self._trades.extend(trades)
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Add an error, which is raised once everything before it was taken, and from then on."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def take(self, most: int, timeout_s: float) -> list[Trade]:
        """Remove and return at most so many trades, waiting for the first."""
        with self._changed:
            if not self._trades and self._error is None:
                self._changed.wait(timeout_s)
            if not self._trades and self._error is not None:
                raise self._error
            popleft = self._trades.popleft
            taken = [popleft() for _ in range(min(most, len(self._trades)))]
            if self._starved is not None and len(self._trades) <= self._most // 2:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._starved.call_soon_threadsafe(self._room.set)
                self._starved = None
        return taken
