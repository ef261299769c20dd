"""Parquet and CSV files of trades or candles, read a row group or some megabytes at a time."""

from __future__ import annotations

import csv
import io
import re
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from markets.findings import FileRefused, Finding, one_line, refused
from markets.rows import Rows, columns_of, from_arrow, kind_of, unit_of

BLOCK = 4 << 20
"""Bytes of CSV in a piece: some 60,000 rows."""

MANY_ROWS = 4 << 20
"""A row group is read whole; above this many rows it is worth a warning (some 250 MB of arrays)."""

_NAME = pa.dictionary(pa.int32(), pa.string())


class ParquetReader:
    """A Parquet file; see ``rows.Reader``."""

    def __init__(self, path: Path, venue: str) -> None:
        self.path = path
        self._venue = venue
        self._file = _parquet(path)
        schema = self._file.schema_arrow
        self.kind = kind_of(path, schema.names)
        groups = [self._file.metadata.row_group(k).num_rows for k in range(self._file.num_row_groups)]
        self._starts = list(accumulate(groups, initial=0))
        self.findings = _unknown_columns(path, schema.names, self.kind)
        if max(groups, default=0) > MANY_ROWS:
            self.findings.append(Finding("warning", "memory", path, None, f"has {max(groups):,} rows in one row group",
                                         "write row groups of 262,144 rows to save memory"))  # fmt: skip
        ts = schema.field("ts").type
        self._unit = "ns"
        if pa.types.is_integer(ts) and self._starts[-1]:
            first = next(k for k, rows in enumerate(groups) if rows)
            value = self._group(first, ["ts"]).column("ts")[0].as_py()
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
        """The row groups."""
        return len(self._starts) - 1

    def read(self, piece: int) -> Rows:
        """Return the rows of a row group."""
        table = self._group(piece, list(columns_of(self.kind)))
        return from_arrow(table, self.path, self.kind, self._starts[piece] + 1, self._unit, self._venue)

    def fresh(self) -> ParquetReader:
        """Return another reader of the file."""
        return ParquetReader(self.path, self._venue)

    def _group(self, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(self.path, error) from error


class CsvReader:
    """A CSV file with a header line; see ``rows.Reader``. Cells may be quoted, but hold no line breaks."""

    def __init__(self, path: Path, venue: str) -> None:
        self.path = path
        self._venue = venue
        with path.open("rb") as file:
            header = file.readline()
            self._blocks, self.lines, first = _blocks(file)
        try:
            self._names = next(csv.reader([header.decode("utf-8-sig")]), [])
        except UnicodeDecodeError as error:
            raise refused("text", path, None, "is not UTF-8 text", "is it really CSV? convert or rename it") from error
        self.kind = kind_of(path, self._names)
        self.findings = _unknown_columns(path, self._names, self.kind)
        self._unit = "ns"
        self._ts: pa.DataType = pa.int64()
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
        for row, cells in enumerate(csv.reader(lines), first_row):
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


def _blocks(file: io.BufferedReader) -> tuple[list[tuple[int, int, int]], int, bytes]:
    """Return ``(offset, length, number of the first row)`` of each block of whole lines, their rows, the first."""
    blocks, first, row = [], b"", 1
    offset = file.tell()
    while text := file.read(BLOCK):
        text += file.readline()
        first = first or text.partition(b"\n")[0]
        if text.strip():
            blocks.append((offset, len(text), row))
        offset += len(text)
        row += text.count(b"\n") + (not text.endswith(b"\n"))
    return blocks, row - 1, first


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        names = pq.read_schema(path).names
        repeated = [name for name in names if name in {"symbol", "side"}]
        return pq.ParquetFile(path, read_dictionary=repeated, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> FileRefused:
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
