"""Recorded markets: files of trades, candles or WebSocket frames as one source."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np

from domain.bars import BAR_COLUMNS, CLOSE, HIGH, LOW, MISSING, OPEN, VOLUME, VWAP
from domain.errors import UsageError
from domain.events import NANOS_PER_DAY
from domain.tables import BarTable, Ints, TradeTable
from markets.checks import Place, inspect, open_files
from markets.findings import FileRefused, Finding
from markets.merged import MergedFeed, Tables
from markets.pacing import WALL, Clock, Pace
from markets.rows import Reader, Rows
from markets.source import Feed, Kind, Resume, T, newer, rows_of

CHUNK = 65_536
"""Most rows of a table: a few megabytes."""


class Recorded:
    """Files as a market; see ``source.Source``.

    Parameters
    ----------
    paths
        Parquet or CSV of trades (``symbol, ts, price, size, side, trade_id``) or of candles (``symbol, ts, open, high,
        low, close, volume``, with ``ts`` the OPEN time), or Binance frames (``.jsonl``, ``.jsonl.zst``). A file may
        hold several instruments and an instrument may go on in the next file.
    venue
        Of symbols that carry none: ``BTC-USD`` becomes ``recorded:BTC-USD``, ``COINBASE:BTCUSD`` ``coinbase:BTCUSD``.
    instruments
        Which to use, in this order; None means all, in the order of the files.
    interval
        Length of a candle, ns; None infers it.
    clock
        What paced feeds go by.

    Attributes
    ----------
    findings : list of Finding
        What the checks found; none is fatal, for such files are refused.

    Raises
    ------
    UsageError
        When a file is missing, unreadable or fails a check, naming file, row and what to do; or when an instrument is
        not in any file.

    Notes
    -----
    Opening reads every file once to its end. Afterwards a window costs the pieces of the files that overlap it.
    """

    simulated = False

    def __init__(
        self,
        paths: Iterable[str | Path],
        venue: str = "recorded",
        instruments: Sequence[str] | None = None,
        interval: int | None = None,
        clock: Clock = WALL,
    ) -> None:
        self._readers = open_files([Path(path) for path in paths], venue)
        self._clock = clock
        inspection = inspect(self._readers, instruments, interval)
        missing = [instrument for instrument in instruments or () if instrument not in inspection.held]
        if missing and inspection.held:
            files = ", ".join(str(reader.path) for reader in self._readers)
            held = ", ".join(sorted(inspection.held))
            raise UsageError(f"{files}: has no instrument {', '.join(missing)}; set instruments from {held}")
        if inspection.fatal:
            raise FileRefused(inspection.fatal[0])
        self._places = inspection.places
        self.kind: Kind = inspection.kind
        self.interval = inspection.interval
        self.instruments = tuple(instruments if instruments is not None else self._places)
        self.findings: list[Finding] = inspection.findings
        self._recent: tuple[tuple[str, int, int], Rows] | None = None

    def span(self, instrument: str) -> tuple[int, int]:
        """Return the first and the last event time of an instrument, ns; of candles, of their END."""
        places = self._places[instrument]
        return places[0].first + (self.interval or 0), places[-1].last + (self.interval or 0)

    def history(self, instrument: str, start: int, end: int) -> Iterator[TradeTable] | Iterator[BarTable]:
        """Yield a window; see ``Source.history``. A table has at most ``CHUNK`` rows."""
        # The file's times are of opens: a candle that ends in (start, end] opens in [start + 1 - interval, end].
        bars = self.interval or 0
        low, high = (start + 1 - bars, end + 1 - bars) if bars else (start, end)
        wanted = [place for place in self._places[instrument] if place.last >= low and place.first < high]
        for rows in self._pieces(instrument, wanted):
            inside = slice(*np.searchsorted(rows.ts, (low, high)).tolist())
            yield from _by_day(self._table(rows.pick(inside)))

    def open(self, resume: Mapping[str, Resume], speed: float) -> Feed:
        """Open the live half; see ``Source.open``."""
        after = {instrument: resume.get(instrument) for instrument in self.instruments}
        wanted = {
            instrument: [
                place
                for place in self._places[instrument]
                if stop is None or place.last + (self.interval or 0) >= stop.after_ts
            ]
            for instrument, stop in after.items()
        }
        pieces = _Pieces(self._readers, wanted)
        streams = [(instrument, self._live(pieces, instrument, stop)) for instrument, stop in after.items()]
        return MergedFeed(streams, Pace(speed, self._clock))

    def _pieces(self, instrument: str, places: Sequence[Place]) -> Iterator[Rows]:
        """Yield an instrument's rows; the last piece is kept, for a backfill asks for one day after the other."""
        readers: list[Reader] | None = None
        for place in places:
            key = (instrument, place.file, place.piece)
            recent = self._recent
            if recent is None or recent[0] != key:
                readers = readers or [reader.fresh() for reader in self._readers]
                self._recent = recent = key, readers[place.file].read(place.piece).of(instrument)
            yield recent[1]

    def _live(self, pieces: _Pieces, instrument: str, stop: Resume | None) -> Tables:
        tables = (table for rows in pieces.of(instrument) for table in _chunks(self._table(rows)))
        return newer(tables, stop)

    def _table(self, rows: Rows) -> TradeTable:
        """Return rows as the source's kind of table; the type names one of the two, since a source has only one."""
        if self.interval is None:
            return TradeTable(rows.ts, rows.trade_id, rows.values[:, 0], rows.values[:, 1], rows.side)
        values = np.zeros((len(rows), len(BAR_COLUMNS)), np.float64)
        values[:, [OPEN, HIGH, LOW, CLOSE, VOLUME]] = rows.values
        values[:, VWAP] = values[:, CLOSE]
        # Some exchanges write a candle for a minute without a trade, others leave it out: both mean the same.
        flat = (values[:, HIGH] == values[:, LOW]) & (values[:, VOLUME] == 0)
        values[:, MISSING] = flat
        return cast("TradeTable", BarTable(rows.ts + self.interval, values))


class _Pieces:
    """Pieces of files on their way to several instruments: each is decoded once, and kept until all had their part."""

    def __init__(self, readers: Sequence[Reader], wanted: Mapping[str, Iterable[Place]]) -> None:
        self._readers = [reader.fresh() for reader in readers]
        self._wanted = {instrument: deque(places) for instrument, places in wanted.items()}
        self._open = {instrument: {place[:2] for place in places} for instrument, places in self._wanted.items()}
        self._kept: dict[tuple[str, int, int], Rows] = {}

    def of(self, instrument: str) -> Iterator[Rows]:
        """Yield an instrument's rows, in order of time."""
        places = self._wanted[instrument]
        while places:
            file, piece, _, _ = places.popleft()
            kept = self._kept.pop((instrument, file, piece), None)
            yield kept if kept is not None else self._read(instrument, file, piece)

    def _read(self, instrument: str, file: int, piece: int) -> Rows:
        rows = self._readers[file].read(piece)
        for other in rows.instruments:
            still = self._open.get(other, set())
            if (file, piece) in still:
                still.discard((file, piece))
                if other != instrument:
                    self._kept[other, file, piece] = rows.of(other)
        return rows.of(instrument)


def _chunks(table: T) -> Iterator[T]:
    for at in range(0, len(table), CHUNK):
        yield rows_of(table, slice(at, at + CHUNK))


def _by_day(table: T) -> Iterator[T]:
    """Yield a table in parts within one UTC day each; a bar that ends at midnight belongs to the day it ends."""
    within = table.ts - 1 if isinstance(table, BarTable) else table.ts
    days: Ints = within // NANOS_PER_DAY
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(table)]
    for start, stop in pairwise(cuts):
        yield from _chunks(rows_of(table, slice(start, stop)))
