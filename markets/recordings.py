"""Files of a recorded session: by UTC day, each whole from the moment it has its name.

``trades-<day>.<first>-<last>.parquet`` holds what was written ``first`` to ``last`` of that day. Now and then a small
file, ``<n>-<n>``, is written; once the day is over its files are put together into one. A process that is killed
meanwhile leaves files some of which cover others, and ``files`` tells which to read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from domain.events import BUY, NANOS_PER_DAY, NANOS_PER_SECOND, SELL, UNKNOWN, Trade

Of: TypeAlias = Literal["frames", "trades"]
T = TypeVar("T")

_SUFFIXES = {"frames": "jsonl.zst", "trades": "parquet"}
_NAME = re.compile(r"(frames|trades)-(\d{4}-\d\d-\d\d)\.(\d+)-(\d+)\.(?:jsonl\.zst|parquet)")
_ROW_GROUP = 1 << 16
_SIDES = {BUY: "buy", SELL: "sell", UNKNOWN: ""}
_TEXT = pa.dictionary(pa.int32(), pa.string())
_COLUMNS = {
    "symbol": _TEXT,
    "ts": pa.timestamp("ns", "UTC"),
    "price": pa.float64(),
    "size": pa.float64(),
    "side": _TEXT,
    "trade_id": pa.int64(),
}


class _File(NamedTuple):
    """In sorted order a file comes before those that it covers."""

    day: str
    first: int
    minus_last: int
    path: Path


def files(folder: Path, of: Of) -> list[Path]:
    """Return the files of a session's folder, in order: what ``markets.recorded`` is given to read it."""
    return [file.path for file in _sorted(folder, of)[0]]


class Shelf(Generic[T]):
    """The files of one kind in a session's folder.

    Parameters
    ----------
    write : (items, path) -> None, makes a file
    join : (paths, path) -> None, makes a file of what several hold
    """

    def __init__(self, folder: Path, of: Of, write: Callable[[Sequence[T], Path], None],
                 join: Callable[[Sequence[Path], Path], None]) -> None:  # fmt: skip
        self._folder, self._of, self._write, self._join = folder, of, write, join
        self._numbers: dict[int, int] = {}

    def write(self, day: int, items: Sequence[T]) -> None:
        """Write items of a day (since the epoch) to its next file."""
        number = self._numbers[day] = self._numbers.get(day, 0) + 1
        self._made(_day(day), number, number, lambda path: self._write(items, path))

    def join(self, before: int | None) -> None:
        """Put the files of each day before this one, or of every day, together."""
        kept, covered = _sorted(self._folder, self._of)
        days = {file.day for file in kept if before is None or file.day < _day(before)}
        for day in sorted(days):
            some = [file for file in kept if file.day == day]
            if len(some) > 1:
                paths = [file.path for file in some]
                last = -some[-1].minus_last
                self._made(day, some[0].first, last, lambda path, paths=paths: self._join(paths, path))  # type: ignore[misc]
                covered += some
        for file in covered:
            file.path.unlink()

    def _made(self, day: str, first: int, last: int, make: Callable[[Path], None]) -> None:
        path = self._folder / f"{self._of}-{day}.{first:06}-{last:06}.{_SUFFIXES[self._of]}"
        partial = path.with_name(f".{path.name}")
        make(partial)
        with partial.open("rb") as file:  # on disk before the files that it covers are gone
            os.fsync(file.fileno())
        partial.rename(path)


def write_frames(lines: Sequence[bytes], path: Path) -> None:
    """Write whole lines as one zstd frame."""
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(lines)))


def join_frames(paths: Sequence[Path], path: Path) -> None:
    """Put zstd files together: one after the other they are one."""
    with path.open("wb") as whole:
        for part in paths:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)


def write_trades(trades: Sequence[Trade], path: Path) -> None:
    """Write trades as rows of ``markets.recorded``."""
    columns: list[list[object]] = [
        [trade.instrument for trade in trades],
        [trade.ts_event for trade in trades],
        [trade.price for trade in trades],
        [trade.size for trade in trades],
        [_SIDES[trade.side] for trade in trades],
        [trade.trade_id for trade in trades],
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _COLUMNS.values(), strict=True)]
    pq.write_table(pa.table(arrays, names=list(_COLUMNS)), path, compression="zstd")


def join_trades(paths: Sequence[Path], path: Path) -> None:
    """Put Parquet files together, in row groups of a useful size."""
    with pq.ParquetWriter(path, pq.read_schema(paths[0]), compression="zstd") as whole:
        waiting: list[pa.Table] = []
        for part in paths:
            waiting.append(pq.read_table(part, partitioning=None))
            if sum(table.num_rows for table in waiting) >= _ROW_GROUP:
                whole.write_table(pa.concat_tables(waiting).unify_dictionaries())
                waiting = []
        if waiting:
            whole.write_table(pa.concat_tables(waiting).unify_dictionaries())


def _sorted(folder: Path, of: Of) -> tuple[list[_File], list[_File]]:
    """Return the files that hold everything, and those that they cover."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [_File(m[2], int(m[3]), -int(m[4]), path) for m, path in matches if m is not None and m[1] == of]
    kept: list[_File] = []
    covered: list[_File] = []
    for file in sorted(found):
        is_covered = kept and file.day == kept[-1].day and file.first <= -kept[-1].minus_last
        (covered if is_covered else kept).append(file)
    return kept, covered


def _day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * NANOS_PER_DAY // NANOS_PER_SECOND, UTC):%Y-%m-%d}"
