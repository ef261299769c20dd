"""Candles that are fetched a page at a time, handed to whoever knows no event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise

import numpy as np
import structlog

from domain.errors import Unavailable
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.tables import BarTable
from markets.findings import utc
from markets.source import rows_of

_SAY_S = 5.0

_LATE_NS, _LONGEST_S = 3 * NANOS_PER_SECOND, 30.0
"""How long after its end a candle may still be unknown to REST, and the longest wait for one, seconds."""


def fetched(pages: AsyncGenerator[BarTable, None], instrument: str, start: int, end: int) -> Iterator[BarTable]:
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
