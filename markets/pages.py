"""Live exchanges as sources: candles fetched a page at a time, handed to whoever knows no event loop, then a feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import structlog

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.tables import BarTable
from markets.findings import utc
from markets.source import Kind, Resume, rows_of

_SAY_S = 5.0

_LATE_NS, _LONGEST_S = 3 * NANOS_PER_SECOND, 30.0
"""How long after its end a candle may still be unknown to REST, and the longest wait for one, seconds."""


class Candled:
    """What every live exchange is as a source: a declared history of candles, and trades from its opening on.

    Parameters
    ----------
    instruments : ``venue:SYMBOL``
    opens_ns : int
        Where history ends and the feed begins, ns since epoch UTC.
    history_ns : int
        How far ``span`` reaches back.
    interval : int
        Length of a candle, ns.
    """

    kind: Kind = "trades"

    def __init__(self, instruments: Sequence[str], opens_ns: int, history_ns: int, interval: int) -> None:
        self.instruments, self.interval = tuple(instruments), interval
        self._opens, self._history = opens_ns, history_ns

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
            When it cannot be reached for longer than patience lasts, or does not reach back so far.
        """
        yield from _fetched(self._candles(instrument, start, end), instrument, start, end)

    def _resumed(self, resume: Mapping[str, Resume]) -> dict[str, Resume]:
        """Return where each instrument's feed begins: without a resume, at the opening."""
        start = Resume(self._opens - 1)
        return {name: resume.get(name, start) for name in self.instruments}

    def _candles(self, instrument: str, start: int, end: int) -> AsyncGenerator[BarTable, None]:
        """Yield pages of candles."""
        raise NotImplementedError


def _fetched(pages: AsyncGenerator[BarTable, None], instrument: str, start: int, end: int) -> Iterator[BarTable]:
    """Yield the pages of a window in parts within one UTC day each; say how far it is. Not from an event loop."""
    said = time.monotonic()
    with asyncio.Runner() as runner:
        try:
            while (page := runner.run(_next(pages))) is not None:
                if time.monotonic() - said > _SAY_S:
                    said = time.monotonic()
                    done = f"{(int(page.ts[-1]) - start) / (end - start):.0%}"
                    structlog.get_logger().info("fetching candles", instrument=instrument, done=done)
                yield from _by_day(page)
        finally:
            runner.run(pages.aclose())


async def until_told(exchange: str, now: int, end: int) -> None:
    """Wait until an exchange whose clock shows ``now`` tells the candle that ends at ``end``, ns.

    Raises
    ------
    Unavailable
        When that is too far ahead.
    """
    ahead_s = (end + _LATE_NS - now) / NANOS_PER_SECOND
    if ahead_s > _LONGEST_S:
        raise Unavailable(
            f"{exchange}: candles are asked for until {utc(end)}, which is {ahead_s:.0f} s ahead of the "
            "exchange's clock; choose earlier days, or wait"
        )
    await asyncio.sleep(max(0.0, ahead_s))


async def _next(pages: AsyncGenerator[BarTable, None]) -> BarTable | None:
    return await anext(pages, None)


def _by_day(table: BarTable) -> Iterator[BarTable]:
    """Yield a table in parts within one UTC day each; a bar that ends at midnight belongs to the day it ends."""
    days = (table.ts - 1) // NANOS_PER_DAY
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(table)]
    for start, stop in pairwise(cuts):
        yield rows_of(table, slice(start, stop))
