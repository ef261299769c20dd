"""Parquet and CSV files of trades or candles, read a row group or some megabytes at a time."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from markets.findings import FileRefused, Finding, one_line, refused
from markets.rows import Rows, columns_of, from_arrow, kind_of, unit_of

BLOCK = 4 << 20
"""Bytes of CSV in a piece: some 60,000 rows."""

PIECE_ROWS = 1 << 20
"""Most rows of a Parquet piece, some 150 MB of arrays: a row group of more is read in several pieces."""

LINE_BYTES = 64 << 10
"""Of one line of CSV: ``csv`` itself gives up at a cell of twice as much."""

TEXT_BYTES = 64
"""Most bytes a row of text columns on average, decoded: an instrument's name and ``sell`` are shorter."""

_NAME = pa.dictionary(pa.int32(), pa.string())


class ParquetReader:
    """A Parquet file; see ``rows.Reader``."""

    def __init__(self, path: Path, venue: str) -> None:
        self.path = path
        self._venue = venue
        self._file = _parquet(path)
        schema = self._file.schema_arrow
        self.kind = kind_of(path, schema.names)
        self._columns = list(columns_of(self.kind))
        _demand_flat(self._file, path, self._columns)
        groups = [self._file.metadata.row_group(k).num_rows for k in range(self._file.num_row_groups)]
        parts = [
            (k, at, min(rows - at, PIECE_ROWS))
            for k, rows in enumerate(groups)
            for at in range(0, max(rows, 1), PIECE_ROWS)
        ]
        self._parts = parts
        self._starts = list(accumulate((rows for _, _, rows in parts), initial=0))
        self._group: Iterator[pa.Table] = iter(())
        self._next = -1  # the piece that _group yields next
        self.findings = _unknown_columns(path, schema.names, self.kind)
        ts = schema.field("ts").type
        self._unit = "ns"
        if pa.types.is_integer(ts) and self._starts[-1]:
            first = next(k for k, rows in enumerate(groups) if rows)
            value = next(self._tables(first, ["ts"], 1)).column("ts")[0].as_py()
            self._unit = unit_of(path, value) if value is not None else "ns"
            self.findings.append(_unit_noted(path, self._unit))
        elif pa.types.is_timestamp(ts) and ts.tz is None:
            self.findings.append(_naive(path))

    @property
    def lines(self) -> int:
        """The rows."""
        return self._starts[-1]

    @property
    def pieces(self) -> int:
        """The row groups, and the parts of large ones."""
        return len(self._parts)

    def read(self, piece: int) -> Rows:
        """Return the rows of a piece; going back inside a large row group decodes it from its beginning."""
        group, at, rows = self._parts[piece]
        if self._next != piece:
            self._group = self._tables(group, self._columns, PIECE_ROWS)
            for _ in range(0, at, PIECE_ROWS):
                next(self._group)
        table = next(self._group)
        self._next = piece + 1 if at + rows < self._file.metadata.row_group(group).num_rows else -1
        return from_arrow(table, self.path, self.kind, self._starts[piece] + 1, self._unit, self._venue)

    def fresh(self) -> ParquetReader:
        """Return another reader of the file."""
        return ParquetReader(self.path, self._venue)

    def _tables(self, group: int, columns: list[str], rows: int) -> Iterator[pa.Table]:
        """Yield a row group in tables of so many rows, the last one of what is left."""
        left = self._file.metadata.row_group(group).num_rows
        if not left:
            yield self._file.read_row_group(group, columns)
            return
        held: list[pa.RecordBatch] = []
        have = 0
        try:
            for batch in self._file.iter_batches(rows, [group], columns, use_threads=False):
                held.append(batch)
                have += batch.num_rows
                while have >= min(rows, left):
                    table = pa.Table.from_batches(held)
                    wanted = min(rows, left)
                    yield table.slice(0, wanted)
                    left -= wanted
                    held = table.slice(wanted).to_batches()
                    have -= wanted
                    if not left:
                        return
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(self.path, error) from error
        raise _corrupt(self.path, ValueError(f"row group {group} lacks {left:,} rows"))


class CsvReader:
    """A CSV file with a header line; see ``rows.Reader``. Cells may be quoted, but hold no line breaks."""

    def __init__(self, path: Path, venue: str) -> None:
        self.path = path
        self._venue = venue
        with path.open("rb") as file:
            header = _line(file, path)
            self._blocks, self.lines, first = _blocks(file, path)
        try:
            self._names = next(csv.reader([header.decode("utf-8-sig")]), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise refused("text", path, None, "is not UTF-8 text", "is it really CSV? convert or rename it") from error
        self.kind = kind_of(path, self._names)
        self.findings = _unknown_columns(path, self._names, self.kind)
        self._unit = "ns"
        self._ts: pa.DataType = pa.int64()
        if len(first) > LINE_BYTES:
            raise _long(path, 1)
        cells = next(csv.reader([first.decode("utf-8", "replace")]), [])
        text = cells[self._names.index("ts")].strip() if len(cells) == len(self._names) else ""
        if re.fullmatch(r"\d+", text):
            self._unit = unit_of(path, int(text))
            self.findings.append(_unit_noted(path, self._unit))
        elif text:
            zoned = re.search(r"(Z|[+-]\d\d:?\d\d)$", text)
            self._ts = pa.timestamp("ns", tz="UTC") if zoned else pa.timestamp("ns")
            self.findings += [] if zoned else [_naive(path)]

    @property
    def pieces(self) -> int:
        """The blocks of text."""
        return len(self._blocks)

    def read(self, piece: int) -> Rows:
        """Return the rows of a block of text."""
        offset, length, first_row = self._blocks[piece]
        with self.path.open("rb") as file:
            file.seek(offset)
            text = file.read(length)
        wanted = list(columns_of(self.kind))
        special = {"symbol": _NAME, "side": _NAME, "ts": self._ts, "trade_id": pa.int64()}
        types = {name: special.get(name, pa.float64()) for name in wanted}
        try:
            table = pacsv.read_csv(
                io.BytesIO(text),
                read_options=pacsv.ReadOptions(use_threads=False, column_names=self._names, block_size=len(text) + 1),
                # NaN is a number that is wrong, not a cell that is empty: the checks tell the two apart.
                convert_options=pacsv.ConvertOptions(
                    column_types=types, include_columns=wanted, null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._first_bad(text, first_row, types, error) from error
        return from_arrow(table, self.path, self.kind, first_row, self._unit, self._venue)

    def fresh(self) -> CsvReader:
        """Return this reader: it keeps no place."""
        return self

    def _first_bad(self, text: bytes, first_row: int, types: dict[str, pa.DataType], error: Exception) -> FileRefused:
        """Return the error for the first row that Arrow could not convert."""
        wanted = [(self._names.index(name), name, types[name]) for name in columns_of(self.kind)]
        lines = (line for line in text.decode("utf-8", "replace").splitlines() if line)
        for row, line in enumerate(lines, first_row):
            if len(line) > LINE_BYTES:
                return _long(self.path, row)
            cells = next(csv.reader([line]), [])
            if len(cells) != len(self._names):
                return refused("cells", self.path, row, f"has {len(cells)} cells, the header has {len(self._names)}",
                               "complete or drop the row")  # fmt: skip
            for at, name, kind in wanted:
                if not _converts(cells[at], kind):
                    return refused("type", self.path, row, f"{name} is {cells[at]!r}",
                                   "write it as in the rows before" if name == "ts" else "write a number")  # fmt: skip
        return refused("text", self.path, None, f"cannot be read ({one_line(error)})", "correct the row")


def _converts(cell: str, kind: pa.DataType) -> bool:
    try:
        pacsv.read_csv(
            io.BytesIO(f'"{cell}"\n'.encode()),
            read_options=pacsv.ReadOptions(use_threads=False, column_names=["cell"]),
            convert_options=pacsv.ConvertOptions(column_types={"cell": kind}, null_values=[""]),
        )
    except pa.ArrowInvalid:
        return False
    return True


def _line(file: io.BufferedReader, path: Path) -> bytes:
    """Return the next line, refusing one that is none of a table."""
    line = file.readline(LINE_BYTES + 1)
    if len(line) > LINE_BYTES:
        raise _long(path, None)
    return line


def _long(path: Path, row: int | None) -> FileRefused:
    return refused(
        "text", path, row, f"holds a line of over {LINE_BYTES:,} bytes", "is it really CSV? correct the line"
    )


def _blocks(file: io.BufferedReader, path: Path) -> tuple[list[tuple[int, int, int]], int, bytes]:
    """Return ``(offset, length, number of the first row)`` of each block of whole lines, their rows, the first."""
    blocks, first, row = [], b"", 1
    offset = file.tell()
    while text := file.read(BLOCK):
        text += _line(file, path)
        first = first or text[: text.find(b"\n") + 1 or None].rstrip(b"\n")
        if text.strip():
            blocks.append((offset, len(text), row))
        offset += len(text)
        row += text.count(b"\n") + (not text.endswith(b"\n"))
    return blocks, row - 1, first


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        texts = [field for field in pq.read_schema(path) if field.name in {"symbol", "side"}]
        repeated = [field.name for field in texts if not pa.types.is_nested(field.type)]
        return pq.ParquetFile(path, read_dictionary=repeated, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, error) from error


def _demand_flat(file: pq.ParquetFile, path: Path, columns: list[str]) -> None:
    """Refuse, before any of it is decoded, columns that hold more than one value a row, or texts that are no names."""
    for name in columns:
        kind = file.schema_arrow.field(name).type
        if pa.types.is_nested(kind):
            raise refused("type", path, None, f"column {name!r} holds {kind}", "write one value a row")
    for group in (file.metadata.row_group(k) for k in range(file.num_row_groups)):
        for column in (group.column(k) for k in range(group.num_columns)):
            most = TEXT_BYTES * group.num_rows + BLOCK
            if column.path_in_schema in {"symbol", "side"} and column.total_uncompressed_size > most:
                said = f"column {column.path_in_schema!r} holds {column.total_uncompressed_size:,} bytes of text"
                raise refused(
                    "memory", path, None, f"{said} in {group.num_rows:,} rows", "write names, such as BTC-USD"
                )


def _corrupt(path: Path, error: Exception) -> FileRefused:
    short = getattr(error, "errno", None) == errno.ENOMEM or os.strerror(errno.ENOMEM) in str(error)  # Arrow's has none
    if isinstance(error, MemoryError) or short:
        raise MemoryError from error  # which says nothing of the file
    return refused("corrupt", path, None, f"is not a readable Parquet file ({one_line(error)})",
                   "download or write it again")  # fmt: skip


def _unknown_columns(path: Path, names: list[str], kind: str) -> list[Finding]:
    unknown = [name for name in names if name not in columns_of("trades" if kind == "trades" else "bars")]
    if not unknown:
        return []
    return [Finding("warning", "columns", path, None, f"column {', '.join(unknown)} is not used")]


def _unit_noted(path: Path, unit: str) -> Finding:
    return Finding("note", "unit", path, None, f"ts is read as {unit} since 1970, told by its magnitude")


def _naive(path: Path) -> Finding:
    return Finding("note", "zone", path, None, "ts names no time zone and is read as UTC")
