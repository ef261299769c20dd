"""The live half of an exchange as its reader sees it: a thread that hears, and trades to poll."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import Protocol, TypedDict

from domain.events import Trade
from markets.outbox import Outbox
from markets.repairs import Tape
from markets.source import Refused


class Health(TypedDict):
    """What there is to say of a feed; counts are since it was opened.

    Attributes
    ----------
    connected : whether a connection is open
    silent_s : seconds since anything came over it, pings included; None without one
    reconnects : connections that took the place of one before
    problem : why there is no connection, or what the exchange says is wrong with it; empty while all is well
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


class Hearing(Protocol):
    """What hears an exchange, on the feed's own event loop, and puts trades into its outbox."""

    @property
    def refused(self) -> deque[Refused]:
        """What could not be read, for whoever takes it."""

    @property
    def health(self) -> Health:
        """What there is to say of it now."""

    async def run(self) -> None:
        """Hear until cancelled; an error reaches whoever polls."""


class LiveFeed:
    """The trades of an exchange, as they happen; see ``source.Feed``. What is handed out is what is recorded.

    Of one instrument they come strictly by id and each once; of several, in the order in which they could be handed
    out. One thread hears the exchange; when nobody polls it stops reading, and REST fills what the exchange then drops.
    """

    def __init__(self, session: Hearing, outbox: Outbox, tape: Tape | None) -> None:
        self._session, self._outbox, self._tape = session, outbox, tape
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
        return self._session.health

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
