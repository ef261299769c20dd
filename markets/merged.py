"""One feed out of many instruments: their tables merged in event-time order, a block at a time, and paced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from domain.events import Bar, Trade
from domain.tables import BarTable, Ints, TradeTable
from markets.pacing import Pace
from markets.source import Refused

Columns: TypeAlias = tuple[npt.NDArray[Any], ...]
Tables: TypeAlias = Iterator[TradeTable] | Iterator[BarTable]


class MergedFeed:
    """A ``Feed`` over one stream of tables an instrument, each in event-time order.

    Events of equal time come in the order of the instruments, and within one in the order of its tables. Memory is
    about one table an instrument, whatever the streams' length.

    Parameters
    ----------
    streams
        ``(instrument, tables)`` pairs, all trades or all bars.
    pace
        When an event is due.
    """

    health: Mapping[str, object] = {}

    def __init__(self, streams: Sequence[tuple[str, Tables]], pace: Pace) -> None:
        self._names = [name for name, _ in streams]
        self._lanes = [_Lane(tables) for _, tables in streams]
        self._pace = pace
        self._block: Columns = (np.empty(0, np.int64),)  # the event times, the places of their instruments, the rest
        self._at = 0

    @property
    def done(self) -> bool:
        """Whether every event was returned."""
        return not self._filled()

    def poll(self, max_events: int, timeout_s: float) -> list[Trade] | list[Bar]:
        """Return what is due now; see ``Feed.poll``. At most one wait a call, so nothing ever spins."""
        if not self._filled():
            self._pace.wait(timeout_s)
            return []
        events = self._due(max_events)
        if not events:
            self._pace.wait(min(timeout_s, self._pace.seconds_until(int(self._block[0][self._at]))))
            events = self._due(max_events)
        return events

    def refused(self) -> list[Refused]:
        """Return nothing: a source of files or of a made-up market refuses when it is opened."""
        return []

    def close(self) -> None:
        """Drop the streams; the feed is done."""
        self._lanes, self._at = [], len(self._block[0])

    def _due(self, max_events: int) -> list[Trade] | list[Bar]:
        taken: list[Any] = []  # trades or bars, never both
        room = max_events
        while room > 0 and self._filled():
            ts = self._block[0]
            until = self._pace.due_until(int(ts[self._at]))
            due = len(ts) if until is None else int(np.searchsorted(ts, until, side="right"))
            stop = min(due, self._at + room)
            if stop <= self._at:
                break
            taken += _events(self._names, tuple(column[self._at : stop] for column in self._block))
            room -= stop - self._at
            self._at = stop
        return taken

    def _filled(self) -> bool:
        """Whether there is a next event, after merging the next block if this one is spent."""
        if self._at < len(self._block[0]):
            return True
        while True:
            for lane in self._lanes:
                if not len(lane.columns[0]):
                    lane.pull()
            running = [lane for lane in self._lanes if not lane.ended]
            # A stream may go on at the very time its table ends with, so that time itself waits for the next table.
            bound = min((int(lane.columns[0][-1]) for lane in running), default=None)
            parts = [(place, lane.take(bound)) for place, lane in enumerate(self._lanes)]
            parts = [(place, part) for place, part in parts if len(part[0])]
            if parts:
                self._block, self._at = _in_order(parts), 0
                return True
            if not running:
                return False
            for lane in running:
                if lane.columns[0][-1] == bound:
                    lane.pull()


class _Lane:
    """One instrument's stream: the rows that were read and not yet merged."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.columns: Columns = (np.empty(0, np.int64),)
        self.ended = False

    def pull(self) -> None:
        """Add the next table that has rows, or learn that there is none."""
        for table in self._tables:
            if len(table):
                fresh = _columns(table)
                if len(self.columns[0]):
                    fresh = tuple(np.concatenate(pair) for pair in zip(self.columns, fresh, strict=True))
                self.columns = fresh
                return
        self.ended = True

    def take(self, bound: int | None) -> Columns:
        """Remove and return the rows before a time, or all."""
        ts = self.columns[0]
        n = len(ts) if bound is None else int(np.searchsorted(ts, bound, side="left"))
        taken = tuple(column[:n] for column in self.columns)
        self.columns = tuple(column[n:] for column in self.columns)
        return taken


def _columns(table: TradeTable | BarTable) -> Columns:
    if isinstance(table, TradeTable):
        return table.ts, table.trade_id, table.price, table.size, table.side
    return table.ts, table.values


def _in_order(parts: list[tuple[int, Columns]]) -> Columns:
    places: Ints = np.concatenate([np.full(len(part[0]), place, np.int64) for place, part in parts])
    ts, *rest = (np.concatenate(columns) for columns in zip(*(part for _, part in parts), strict=True))
    if len(parts) == 1:
        return ts, places, *rest
    order = np.argsort(ts, kind="stable")
    return tuple(column[order] for column in (ts, places, *rest))


def _events(names: list[str], block: Columns) -> list[Trade] | list[Bar]:
    ts, places, *rest = (column.tolist() for column in block)
    if len(rest) == 1:
        return [Bar(names[k], t, *values) for t, k, values in zip(ts, places, *rest, strict=True)]
    return [Trade(names[k], t, *values) for t, k, *values in zip(ts, places, *rest, strict=True)]
