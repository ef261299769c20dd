"""Rows of a recorded file as plain arrays, whatever the file's format, types and units were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from domain.events import BUY, NANOS_PER_SECOND, SELL, UNKNOWN
from domain.tables import Flags, Floats, Ints, Sides
from markets.findings import Finding, refused
from markets.source import Kind
from markets.symbols import instrument_of

TRADE_COLUMNS = ("symbol", "ts", "price", "size", "side", "trade_id")
CANDLE_COLUMNS = ("symbol", "ts", "open", "high", "low", "close", "volume")

_UNITS = {"s": NANOS_PER_SECOND, "ms": 1_000_000, "us": 1_000, "ns": 1}
# 1980 to 2200: wide enough for any market, and narrow enough that the units' ranges do not touch.
_EARLIEST, _LATEST = 315_532_800, 7_258_118_400
_SIDES = {"buy": BUY, "b": BUY, "1": BUY, "sell": SELL, "s": SELL, "-1": SELL, "": UNKNOWN, "0": UNKNOWN}

_SHOWN = 200
"""Characters of a header that a message repeats."""

_ARRAYS = ("row", "code", "ts", "values", "trade_id", "side")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file, ``n`` of them.

    Attributes
    ----------
    row : int64[n], 1-based, in the file
    instruments : the instruments that occur
    code : int64[n], places in ``instruments``
    ts : int64[n], ns: of a trade its time, of a candle its OPEN time
    values : float64[n, 2] price and size, or float64[n, 5] open, high, low, close and volume
    trade_id : int64[n], 0 for candles
    side : int8[n], 0 for candles
    """

    row: Ints
    instruments: tuple[str, ...]
    code: Ints
    ts: Ints
    values: Floats
    trade_id: Ints
    side: Sides

    def __len__(self) -> int:
        return len(self.ts)

    def of(self, instrument: str) -> Rows:
        """Return the rows of one instrument."""
        if instrument not in self.instruments:
            return self.pick(np.zeros(len(self), np.bool_))
        if len(self.instruments) == 1:
            return self
        return self.pick(self.code == self.instruments.index(instrument))

    def pick(self, pick: Flags | slice) -> Rows:
        """Return some of the rows."""
        return Rows(self.row[pick], self.instruments, self.code[pick], self.ts[pick], self.values[pick],
                    self.trade_id[pick], self.side[pick])  # fmt: skip


def join(above: Rows, below: Rows) -> Rows:
    """Return rows of one instrument and those that follow."""
    pairs = [np.concatenate((getattr(above, name), getattr(below, name))) for name in _ARRAYS]
    row, code, ts, values, trade_id, side = pairs
    return Rows(row, below.instruments, code, ts, values, trade_id, side)


class Reader(Protocol):
    """One file, read a piece at a time: a row group, or some megabytes of text."""

    @property
    def path(self) -> Path:
        """Where the file is."""

    @property
    def kind(self) -> Kind:
        """Whether it holds trades or candles."""

    @property
    def lines(self) -> int:
        """How many rows it has, of whatever kind."""

    @property
    def pieces(self) -> int:
        """How many pieces it has."""

    @property
    def findings(self) -> list[Finding]:
        """What was noticed while opening and reading it."""

    def read(self, piece: int) -> Rows:
        """Return all rows of a piece; going forward through the pieces is fastest."""

    def fresh(self) -> Reader:
        """Return the same file with a place of its own, for another user of it."""


def kind_of(path: Path, names: Sequence[str]) -> Kind:
    """Return what a file with these columns holds.

    Raises
    ------
    FileRefused
        When columns are missing, or occur twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refused("columns", path, None, f"column {twice[0]!r} occurs twice", "rename or drop one")
    missing = {columns: [name for name in columns if name not in names] for columns in (TRADE_COLUMNS, CANDLE_COLUMNS)}
    if not missing[TRADE_COLUMNS]:
        return "trades"
    if not missing[CANDLE_COLUMNS]:
        return "bars"
    nearest = min(missing, key=lambda columns: len(missing[columns]))
    what = "trades" if nearest is TRADE_COLUMNS else "candles"
    held = ", ".join(names)[:_SHOWN] or "none"
    raise refused(
        "columns", path, None, f"has no column {', '.join(missing[nearest])} (it has {held})",
        f"name the columns of {what} {', '.join(nearest)}",
    )  # fmt: skip


def columns_of(kind: Kind) -> tuple[str, ...]:
    """Return the columns that are read of a file of this kind."""
    return TRADE_COLUMNS if kind == "trades" else CANDLE_COLUMNS


def unit_of(path: Path, first: int) -> str:
    """Return the unit of a file's whole-number times, told by the magnitude of the first.

    >>> unit_of(Path("a.csv"), 1_546_300_800), unit_of(Path("a.csv"), 1_546_300_800_000_000)
    ('s', 'us')

    Raises
    ------
    FileRefused
        When it is no time of 1980 to 2200 in any unit.
    """
    for unit, size in _UNITS.items():
        if _EARLIEST <= first * size // NANOS_PER_SECOND < _LATEST:
            return unit
    raise refused("time", path, 1, f"ts is {first}, no time in any unit", "write seconds, ms, us or ns since 1970")


def from_arrow(table: pa.Table, path: Path, kind: Kind, first_row: int, unit: str, venue: str) -> Rows:
    """Return the rows of an Arrow table.

    Parameters
    ----------
    table : the columns of the kind, in any order
    first_row : 1-based row number of its first row
    unit : of whole-number times
    venue : of symbols that carry none

    Raises
    ------
    FileRefused
        When a column has the wrong type, or a value is missing or means nothing; the first such row is named.
    """
    source = _Source(table, path, first_row)
    n = table.num_rows
    instruments, code = source.instruments(venue)
    columns = columns_of(kind)[2:4] if kind == "trades" else columns_of(kind)[2:]
    values = np.column_stack([source.floats(name) for name in columns])
    return Rows(
        row=np.arange(first_row, first_row + n, dtype=np.int64),
        instruments=instruments,
        code=code,
        ts=source.times(unit),
        values=values,
        trade_id=source.ids() if kind == "trades" else np.zeros(n, np.int64),
        side=source.sides() if kind == "trades" else np.zeros(n, np.int8),
    )


class _Source:
    """An Arrow table whose cells are not trusted."""

    def __init__(self, table: pa.Table, path: Path, first_row: int) -> None:
        self._table = table
        self._path = path
        self._first_row = first_row

    def times(self, unit: str) -> Ints:
        column = self._complete("ts")
        if pa.types.is_timestamp(column.type):
            unit = column.type.unit
        elif not pa.types.is_integer(column.type):
            raise self._wrong_type("ts", column.type, "write timestamps, or whole seconds, ms, us or ns since 1970")
        raw = _plain(column, pa.int64())
        size = _UNITS[unit]
        wrong = (raw < _EARLIEST * (NANOS_PER_SECOND // size)) | (raw >= _LATEST * (NANOS_PER_SECOND // size))
        self._refuse_first(wrong, "time", f"ts {{}} is outside 1980 to 2200, read as {unit}", raw,
                           "correct it, or use one unit in all rows")  # fmt: skip
        return np.asarray(raw * size, np.int64)

    def floats(self, name: str) -> Floats:
        column = self._complete(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
                or pa.types.is_decimal(column.type)):  # fmt: skip
            raise self._wrong_type(name, column.type, "write numbers")
        return np.asarray(_plain(column, pa.float64()), np.float64)

    def ids(self) -> Ints:
        column = self._complete("trade_id")
        if not pa.types.is_integer(column.type):
            raise self._wrong_type("trade_id", column.type, "write the exchange's whole numbers")
        return np.asarray(_plain(column, pa.int64()), np.int64)

    def sides(self) -> Sides:
        names, code = self._coded("side")
        sides = np.array([_SIDES.get(str(name).strip().lower(), 99) for name in names], np.int64)[code]
        self._refuse_first(sides == 99, "side", "side is {!r}", np.array(names, object)[code],  # noqa: PLR2004
                           "write the taker's side, buy or sell, or leave it empty")  # fmt: skip
        return sides.astype(np.int8)

    def instruments(self, venue: str) -> tuple[tuple[str, ...], Ints]:
        column = self._complete("symbol")
        if not _textual(column.type):
            raise self._wrong_type("symbol", column.type, "write text, such as BTC-USD")
        names, code = self._coded("symbol")
        found = [instrument_of(str(name), venue) for name in names]
        bad = np.array([instrument is None for instrument in found], np.bool_)[code]
        self._refuse_first(bad, "symbol", "symbol {!r} is no instrument", np.array(names, object)[code],
                           "write letters, digits, dots and dashes, such as BTC-USD")  # fmt: skip
        instruments = tuple(dict.fromkeys(instrument for instrument in found if instrument))
        places = np.array([instruments.index(name) if name else 0 for name in found], np.int64)
        return instruments, places[code]

    def _coded(self, name: str) -> tuple[list[object], Ints]:
        """Return the distinct values of a column, "" for none at all, and each row's place among them."""
        cells = self._table[name]
        if not pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_encode()
        column: Any = _whole(cells.unify_dictionaries())  # a DictionaryArray; the stubs do not know
        names = [*column.dictionary.to_pylist(), ""]
        code = np.full(len(column), len(names) - 1, np.int64)
        code[_plain(column.is_valid(), pa.int8()) > 0] = _plain(column.indices.drop_null(), pa.int64())
        return names, code

    def _complete(self, name: str) -> pa.ChunkedArray[Any]:
        column = self._table[name]
        if column.null_count:
            at = int(np.argmax(_plain(column.is_null(), pa.int8())))
            raise refused("null", self._path, self._first_row + at, f"{name} is empty", "fill it in or drop the row")
        return column

    def _refuse_first(self, wrong: Flags, code: str, message: str, values: object, fix: str) -> None:
        if np.any(wrong):
            at = int(np.argmax(wrong))
            said = message.format(values[at])  # type: ignore[index]
            raise refused(code, self._path, self._first_row + at, said, fix)

    def _wrong_type(self, name: str, was: object, fix: str) -> Exception:
        return refused("type", self._path, None, f"column {name!r} holds {was}", fix)


def _whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _plain(column: pa.ChunkedArray[Any] | pa.Array[Any], kind: pa.DataType) -> npt.NDArray[Any]:
    """Return a column without nulls as an array. Arrow's own ``to_numpy`` would import pandas: a second, 50 MB."""
    return np.from_dlpack(_whole(column.cast(kind, safe=False)))


def _textual(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
