"""The days of history: which UTC days there are, where history ends, and the window that a run of days may write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from domain.config import Project
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND, nanos_at

AHEAD_DAYS = 60
"""Days that a simulated market is given beyond where it stands: a wall-clock day at 60 event seconds a second."""

TRAINING_SHARE = 0.6
"""Share of a recording that the first model is trained on, when ``market.opens`` does not lie inside of it."""


@dataclass(frozen=True)
class History:
    """What lies before the stream.

    Attributes
    ----------
    start : of the first bar, ns
    until : the seam, ns: the first model learns everything up to here, and the stream begins behind it
    end : of what the market is known to hold, ns; None for a market that goes on
    """

    start: int
    until: int
    end: int | None = None


INSTRUMENTS = "tidemill/instruments"
"""Run tag: the instruments, divided by blanks, whose history a run fills; all without it."""


def history_of(project: Project, instrument: str = "") -> History:
    """Return where the project's history starts and ends, or that of one instrument; all on the grid of its bars."""
    whole, joined = _history(project), project.market.joined_ns(instrument)
    if joined is None:
        return whole
    return History(max(whole.start, joined - project.market.history_ns(project.interval)), joined, whole.end)


def _history(project: Project) -> History:
    market, interval = project.market, project.interval
    opens = market.opens_ns // interval * interval
    if market.source != "recorded":
        return History(opens - market.history_ns(interval), opens)
    from markets.catalog import source_of

    source = source_of(project)
    spans = [source.span(instrument) for instrument in project.instruments]
    # A candle is known by its end, a trade lies anywhere in its bar.
    first = (min(first for first, _ in spans) - (source.interval or 0)) // interval * interval
    last = max(last for _, last in spans)
    if not first < opens < last:
        opens = (first + int(TRAINING_SHARE * (last - first))) // interval * interval
    return History(first, opens, -(-last // interval) * interval)


def days_of(history: History, reached: int = 0) -> dg.DailyPartitionsDefinition:
    """Return the partitions: one a UTC day of event time, whatever the wall clock says.

    Parameters
    ----------
    reached : how far the market has come, ns; a market without an end is given some weeks beyond it
    """
    if history.end is not None:
        last = date_of(history.end)
    else:
        last = date_of(max(history.until, reached)) + timedelta(days=AHEAD_DAYS)
    # The end is exclusive.
    return dg.DailyPartitionsDefinition(
        start_date=date_of(history.start + 1).isoformat(), end_date=(last + timedelta(days=1)).isoformat()
    )


def window_of(tags: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the window ``(start, end]`` (ns) of the days that a run is for, None when it is for no days.

    >>> window_of({"dagster/partition": "1970-01-02"}) == (NANOS_PER_DAY, 2 * NANOS_PER_DAY)
    True
    """
    one = tags.get("dagster/partition")
    first = tags.get("dagster/asset_partition_range_start", one)
    last = tags.get("dagster/asset_partition_range_end", one)
    if first is None or last is None:
        return None
    begin, end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
    return nanos_at(begin), nanos_at(end) + NANOS_PER_DAY


def date_of(ts: int) -> date:
    """Return the UTC day that a row with this time (ns) belongs to: that of the nanosecond before it.

    >>> date_of(NANOS_PER_DAY).isoformat(), date_of(NANOS_PER_DAY + 1).isoformat()
    ('1970-01-01', '1970-01-02')
    """
    return date(1970, 1, 1) + timedelta(days=(ts - 1) // NANOS_PER_DAY)


def text_of(ts: int) -> str:
    """Return a time as people read it.

    >>> text_of(NANOS_PER_DAY)
    '1970-01-02 00:00:00 UTC'
    """
    return datetime.fromtimestamp(ts / NANOS_PER_SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
