"""The lake's tables as Arrow schemas, and how the domain's rows become theirs and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from domain.bars import BAR_COLUMNS
from domain.errors import BadState
from domain.events import NANOS_PER_DAY
from domain.features import FEATURES, TARGETS
from domain.tables import BarTable, ExampleTable, Floats, Ints, VectorTable

Source = Literal["live", "backfill"]
Columns = Sequence[tuple[str, pa.DataType]]


def _schema(keys: Columns, values: Sequence[str], more: Columns, nullable: str = "") -> pa.Schema:
    columns = [*keys, *((name, pa.float64()) for name in values), *more, ("day", pa.date32())]
    return pa.schema([pa.field(name, kind, nullable=name == nullable) for name, kind in columns])


_KEYS: Columns = [("instrument", pa.string()), ("ts_event", pa.int64())]
_SOURCE: Columns = [("source", pa.string())]

SCHEMAS: dict[str, pa.Schema] = {
    "bars": _schema(_KEYS, BAR_COLUMNS, _SOURCE),
    "features": _schema(_KEYS, FEATURES, _SOURCE),
    "examples": _schema(
        [*_KEYS, ("ts_available", pa.int64()), ("horizon_s", pa.int32())],
        (*FEATURES, *TARGETS),
        _SOURCE,
        nullable="direction",
    ),
    "predictions": _schema(
        [("prediction_id", pa.string()), *_KEYS, ("horizon_s", pa.int32())],
        TARGETS,
        [(name, pa.int64()) for name in ("model_version", "n_learned", "model_watermark", "predicted_at")],
    ),
}
"""Columns of each table, in order; only an example's direction may be null (the price did not move)."""

TIME = {"bars": "ts_event", "features": "ts_event", "examples": "ts_available", "predictions": "ts_event"}
"""The column by which a table's rows are ordered, partitioned and windowed: when a row could first be known."""


def day_of(ts: int) -> int:
    """Return the UTC day, counted from the epoch, that a row with this time belongs to: that of the ns before it.

    >>> day_of(NANOS_PER_DAY), day_of(NANOS_PER_DAY + 1)
    (0, 1)
    """
    return (ts - 1) // NANOS_PER_DAY


def bars_to_rows(instrument: str, bars: BarTable, source: Source) -> pa.Table:
    """Return the bars as rows of table ``bars``."""
    return _rows("bars", instrument, bars.ts, _named(BAR_COLUMNS, bars.values), source)


def vectors_to_rows(instrument: str, vectors: VectorTable, source: Source) -> pa.Table:
    """Return the vectors as rows of table ``features``."""
    return _rows("features", instrument, vectors.ts, _named(FEATURES, vectors.values), source)


def examples_to_rows(instrument: str, examples: ExampleTable, horizon_s: int, source: Source) -> pa.Table:
    """Return the examples as rows of table ``examples``.

    Parameters
    ----------
    horizon_s : how far ahead the targets lie, seconds
    """
    columns = {
        "ts_event": examples.ts,
        "horizon_s": np.full(len(examples), horizon_s, np.int32),
        **_named((*FEATURES, *TARGETS), np.hstack([examples.values, examples.targets])),
    }
    return _rows("examples", instrument, examples.available, columns, source)


def records_to_rows(
    table: str, records: Sequence[msgspec.Struct], offsets: Sequence[int], source: Source = "live"
) -> pa.Table:
    """Return a topic's records as rows to land, see ``fields_to_rows``.

    Parameters
    ----------
    records : ``Bar``, ``VectorRecord``, ``ExampleRecord`` or ``Prediction``, as the table's name says
    """
    names = records[0].__struct_fields__ if records else [n for n in SCHEMAS[table].names if n not in {"source", "day"}]
    return fields_to_rows(table, names, [msgspec.structs.astuple(record) for record in records], offsets, source)


def fields_to_rows(
    table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], offsets: Sequence[int], source: Source = "live"
) -> pa.Table:
    """Return a topic's records as rows to land: the table's columns, and each record's offset as ``off``.

    Parameters
    ----------
    names : of a record's fields
    rows : each record's fields, in the order of their names
    """
    schema = SCHEMAS[table]
    fields = zip(*rows, strict=True) if rows else ([] for _ in names)
    columns: dict[str, Any] = {"source": [source] * len(rows), **dict(zip(names, fields, strict=True))}
    columns["day"] = _days(np.array(columns[TIME[table]], np.int64))
    landed = pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
    return landed.append_column("off", pa.array(offsets, pa.int64()))


def rows_to_bars(rows: pa.Table) -> BarTable:
    """Return rows of table ``bars`` as the domain reads them."""
    return BarTable(times(rows, "ts_event"), _matrix(rows, BAR_COLUMNS))


def rows_to_vectors(rows: pa.Table) -> VectorTable:
    """Return rows of table ``features`` as the domain reads them."""
    return VectorTable(times(rows, "ts_event"), _matrix(rows, FEATURES))


def rows_to_examples(rows: pa.Table) -> ExampleTable:
    """Return rows of table ``examples`` as the domain reads them: a null direction is NaN."""
    values, targets = _matrix(rows, FEATURES), _matrix(rows, TARGETS)
    return ExampleTable(times(rows, "ts_event"), times(rows, "ts_available"), values, targets)


def times(rows: pa.Table, column: str) -> Ints:
    """Return an int64 column as an array of its own."""
    return np.array(rows[column].to_numpy(), np.int64)


def check(table: str, rows: pa.Table) -> None:
    """Refuse rows that are not of this table.

    Raises
    ------
    BadState
        When the table is unknown, the columns differ, or there is a null where none may be.
    """
    if table not in SCHEMAS:
        raise BadState(f"the lake has no table {table}; it has {', '.join(SCHEMAS)}")
    schema = SCHEMAS[table]
    if rows.schema.names != schema.names or rows.schema.types != schema.types:
        raise BadState(f"rows for table {table} have columns {rows.schema.names}; make them with warehouse.tables")
    for field in schema:
        if not field.nullable and rows[field.name].null_count:
            raise BadState(f"column {field.name} of rows for table {table} has nulls; drop or fill such rows first")


def _rows(table: str, instrument: str, ts: Ints, values: Mapping[str, Any], source: Source) -> pa.Table:
    schema = SCHEMAS[table]
    keys = {"instrument": [instrument] * len(ts), TIME[table]: ts, "source": [source] * len(ts), "day": _days(ts)}
    columns: dict[str, Any] = {**keys, **values}
    # Arrow's null is what SQL understands; NaN stands for it in arrays only.
    arrays = [pa.array(columns[f.name], f.type, from_pandas=f.nullable) for f in schema]
    return pa.table(arrays, schema=schema)


def _named(names: Sequence[str], values: Floats) -> dict[str, Floats]:
    return {name: values[:, k] for k, name in enumerate(names)}


def _days(ts: Ints) -> pa.Array[Any]:
    return pa.array(((ts - 1) // NANOS_PER_DAY).astype(np.int32)).cast(pa.date32())


def _matrix(rows: pa.Table, names: Sequence[str]) -> Floats:
    matrix = np.empty((rows.num_rows, len(names)), np.float64)
    for k, name in enumerate(names):
        matrix[:, k] = rows[name].to_numpy()
    return matrix
