"""What a market is to the rest of Tidemill: a source with a history half and a live half."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from domain.errors import BadRecord
from domain.events import Bar, Trade
from domain.tables import BarTable, Flags, TradeTable

Kind: TypeAlias = Literal["trades", "bars"]
T = TypeVar("T", TradeTable, BarTable)


@dataclass(frozen=True)
class Resume:
    """Where a reader stopped: only strictly newer events are wanted.

    Attributes
    ----------
    after_ts : int
        ``ts_event`` of the last event that was kept, ns since epoch UTC.
    after_trade_id : int or None
        Its trade id. With it, newer means later by ``(ts_event, trade_id)``; without it, by ``ts_event`` alone.
    """

    after_ts: int
    after_trade_id: int | None = None


@dataclass(frozen=True)
class Refused:
    """What the outside sent as trades and nobody can read: its format has changed."""

    frame: bytes
    error: BadRecord


class Feed(Protocol):
    """The live half of a source, opened once by one reader; not safe to share between threads."""

    @property
    def done(self) -> bool:
        """Whether a recorded source is exhausted and every event was returned."""

    @property
    def health(self) -> Mapping[str, object]:
        """What there is to say of the connection behind it, as JSON; empty where there is none."""

    def poll(self, max_events: int, timeout_s: float) -> list[Trade] | list[Bar]:
        """Return what is due now: in event-time order, or of a live exchange in the order of each instrument's ids.

        Parameters
        ----------
        max_events : int
            Most events to return, >= 1.
        timeout_s : float
            How long to wait for the next event when none is due, seconds, >= 0.

        Returns
        -------
        list of Trade or of Bar
            Empty when nothing became due in time, or when the feed is done.
        """

    def refused(self) -> list[Refused]:
        """Return what could not be read since the last call."""

    def close(self) -> None:
        """Let go of files and connections; nothing is returned afterwards."""


class Source(Protocol):
    """One market: what happened, by window, and what happens, as a feed."""

    @property
    def kind(self) -> Kind:
        """Whether its live half yields trades or candles."""

    @property
    def simulated(self) -> bool:
        """Whether the prices are made up."""

    @property
    def instruments(self) -> tuple[str, ...]:
        """The instruments, ``venue:SYMBOL``; their order breaks ties of event time."""

    @property
    def interval(self) -> int | None:
        """Length of its history's candles, ns; None where history is trades."""

    def span(self, instrument: str) -> tuple[int, int]:
        """Return the first and the last event time known, ns (a simulated market: its declared history)."""

    def history(self, instrument: str, start: int, end: int) -> Iterator[TradeTable] | Iterator[BarTable]:
        """Yield what happened in a window, in order, in chunks that never span two UTC days.

        Trades with ``start <= ts < end``; bars, whose ``ts`` is the END of their interval, with ``start < ts <= end``.
        Candles are as the file has them: intervals without a trade are absent.
        """

    def open(self, resume: Mapping[str, Resume], speed: float) -> Feed:
        """Open the live half.

        Parameters
        ----------
        resume
            Per instrument, where its reader stopped; an instrument that is absent starts at the beginning.
        speed : float
            Event seconds per wall second, anchored at the first event of the feed; 0 means as fast as it is read.
        """


def rows_of(table: T, pick: Flags | slice) -> T:
    """Return some rows of a table."""
    return type(table)(**{field.name: getattr(table, field.name)[pick] for field in fields(table)})


def newer(tables: Iterable[T], resume: Resume | None) -> Iterator[T]:
    """Yield the rows of these tables, in order, that are newer than where the reader stopped."""
    for table in tables:
        if resume is None or (len(table) and table.ts[0] > resume.after_ts):
            yield table
            continue
        wanted = table.ts > resume.after_ts
        if isinstance(table, TradeTable) and resume.after_trade_id is not None:
            wanted |= (table.ts == resume.after_ts) & (table.trade_id > resume.after_trade_id)
        if np.any(wanted):
            yield rows_of(table, wanted)
