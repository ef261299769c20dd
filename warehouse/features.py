"""The feature store: an instrument's history replaced a window at a time, and read in order, as of a snapshot."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domain.errors import BadState
from domain.tables import BarTable, ExampleTable, Ints, VectorTable
from warehouse import tables
from warehouse.lake import Connection, Lake

_WINDOW_ROWS = 250_000
"""Rows read at once, about: some 50 MB of examples."""

_WHERE = "instrument = $instrument AND {time} > $start AND {time} <= $end AND day BETWEEN $first AND $last"


@dataclass(frozen=True)
class Replaced:
    """What a replacement did: rows now in the window, rows that were there before, and the snapshot it made."""

    rows: int
    previous_rows: int
    snapshot: int


@dataclass(frozen=True)
class TrainingRows:
    """What a model may learn from, of one snapshot: the vectors asked and the examples answered by the same time."""

    vectors: VectorTable
    examples: ExampleTable
    snapshot: int


def replace_window(
    lake: Lake, table: str, instrument: str, start: int, end: int, rows: pa.Table, run_id: str
) -> Replaced:
    """Replace an instrument's rows with ``start < time <= end`` by these, at once for every reader.

    Parameters
    ----------
    start, end : int
        Nanoseconds of the table's time column (``tables.TIME``).
    rows : pa.Table
        As ``warehouse.tables`` makes them: of this instrument and window only, in time order. May be empty.
    run_id : kept as the snapshot's message

    Raises
    ------
    BadState
        When a row is of another instrument or outside the window, or out of order.
    Unavailable
        When the lake stays busy.

    Notes
    -----
    The Parquet files are written before the transaction and only swapped in by it, so that a large window holds up
    the live rows no longer than a small one. Killed before the commit, it leaves files that no reader sees and
    ``maintenance.sweep`` removes. The same window replaced twice is replaced once.
    """
    tables.check(table, rows)
    _check_window(table, instrument, start, end, rows)
    files = [str(path) for path in _staged(lake, table, rows)]
    where, parameters = _where(table, instrument, start, end)

    def swap(connection: Connection) -> int:
        gone = connection.execute(f"DELETE FROM {table} WHERE {where}", parameters).fetchall()  # noqa: S608
        if files:
            connection.execute("CALL ducklake_add_data_files('lake', ?, ?)", [table, files])
        return int(gone[0][0])

    previous = lake.write(swap, message=run_id)
    snapshot = lake.query("SELECT id FROM ducklake_last_committed_snapshot('lake')")["id"][0].as_py()
    return Replaced(rows.num_rows, previous, snapshot if snapshot is not None else lake.snapshot())


def count(lake: Lake, table: str, instrument: str, start: int, end: int, *, snapshot: int | None = None) -> int:
    """Return how many rows an instrument has with ``start < time <= end``."""
    where, parameters = _where(table, instrument, start, end)
    sql = f"SELECT count(*) AS n FROM {_as_of(table, snapshot)} WHERE {where}"  # noqa: S608 - names of SCHEMAS
    return int(lake.query(sql, parameters)["n"][0].as_py())


def read(
    lake: Lake, table: str, instrument: str, start: int, end: int, *, snapshot: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield an instrument's rows with ``start < time <= end``, in time order, as of one snapshot.

    Parameters
    ----------
    snapshot : int or None
        Whose rows; None means the newest at the first batch. A reading that may last longer than a day, or must be
        repeatable, pins its snapshot first (``maintenance.pin``).

    Notes
    -----
    Memory is bounded by some days of rows, whatever the window.
    """
    if snapshot is None:
        snapshot = lake.snapshot()
    source, time = _as_of(table, snapshot), tables.TIME[table]
    where, parameters = _where(table, instrument, start, end)
    days = lake.query(
        f"SELECT day, count(*) AS n FROM {source} WHERE {where} GROUP BY day ORDER BY day",  # noqa: S608
        parameters,
    ).to_pylist()
    columns = ", ".join(tables.SCHEMAS[table].names)
    for first, last in _groups(days):
        rows = lake.query(
            f"SELECT {columns} FROM {source} WHERE {where} ORDER BY {time}",  # noqa: S608
            parameters | {"first": first, "last": last},
        )
        yield from rows.cast(tables.SCHEMAS[table]).to_batches(max_chunksize=50_000)


@overload
def read_table(
    lake: Lake, table: Literal["bars"], instrument: str, start: int, end: int, *, snapshot: int | None = None
) -> BarTable: ...
@overload
def read_table(
    lake: Lake, table: Literal["features"], instrument: str, start: int, end: int, *, snapshot: int | None = None
) -> VectorTable: ...
@overload
def read_table(
    lake: Lake, table: Literal["examples"], instrument: str, start: int, end: int, *, snapshot: int | None = None
) -> ExampleTable: ...
def read_table(
    lake: Lake, table: str, instrument: str, start: int, end: int, *, snapshot: int | None = None
) -> BarTable | VectorTable | ExampleTable:
    """Return what :func:`read` yields, whole, as the domain's table."""
    batches = list(read(lake, table, instrument, start, end, snapshot=snapshot))
    rows = pa.Table.from_batches(batches, schema=tables.SCHEMAS[table])
    if table == "bars":
        return tables.rows_to_bars(rows)
    return tables.rows_to_vectors(rows) if table == "features" else tables.rows_to_examples(rows)


def read_times(
    lake: Lake, table: str, instrument: str, start: int, end: int, *, source: tables.Source | None = None
) -> Ints:
    """Return the times (ns, ascending) of an instrument's rows with ``start < time <= end``.

    Parameters
    ----------
    source : only rows that were streamed (``live``) or backfilled
    """
    where, parameters = _where(table, instrument, start, end)
    time, made = tables.TIME[table], "" if source is None else "AND source = $source"
    sql = f"SELECT {time} FROM {table} WHERE {where} {made} ORDER BY {time}"  # noqa: S608 - names of SCHEMAS
    return tables.times(lake.query(sql, parameters | ({} if source is None else {"source": source})), time)


def span(lake: Lake, table: str, instrument: str, *, source: tables.Source | None = None) -> tuple[int, int] | None:
    """Return the times (ns) of an instrument's oldest and newest row, None when it has none.

    Parameters
    ----------
    source : as of :func:`read_times`
    """
    time, made = tables.TIME[table], "" if source is None else "AND source = $source"
    rows = lake.query(
        f"SELECT min({time}) AS first, max({time}) AS last FROM {table} WHERE instrument = $instrument {made}",  # noqa: S608
        {"instrument": instrument} | ({} if source is None else {"source": source}),
    ).to_pylist()
    return None if rows[0]["first"] is None else (rows[0]["first"], rows[0]["last"])


def count_early(lake: Lake, instrument: str, start: int, end: int) -> int:
    """Return how many examples with ``start < ts_available <= end`` were available before their horizon had passed."""
    where, parameters = _where("examples", instrument, start, end)
    early = "ts_available < ts_event + CAST(horizon_s AS BIGINT) * 1000000000"
    sql = f"SELECT count(*) AS n FROM examples WHERE {where} AND {early}"  # noqa: S608
    return int(lake.query(sql, parameters)["n"][0].as_py())


def newest_bar(lake: Lake, instrument: str, until: int) -> tuple[int, float] | None:
    """Return end (ns) and close of an instrument's newest bar with a trade that ends at or before ``until``."""
    where, parameters = _where("bars", instrument, 0, until)
    rows = lake.query(
        f"SELECT ts_event, close FROM bars WHERE {where} AND missing = 0 ORDER BY ts_event DESC LIMIT 1",  # noqa: S608
        parameters,
    ).to_pylist()
    return (int(rows[0]["ts_event"]), float(rows[0]["close"])) if rows else None


def training_rows(lake: Lake, instrument: str, start: int, until: int, snapshot: int | None = None) -> TrainingRows:
    """Return what could be known at ``until``: vectors asked after ``start``, and those whose targets had matured.

    Parameters
    ----------
    start, until : int
        Nanoseconds: vectors with ``start < ts_event <= until``, examples with ``start < ts_event`` and
        ``ts_available <= until``. No example sees past ``until``.
    snapshot : the same for both; None means the newest
    """
    if snapshot is None:
        snapshot = lake.snapshot()
    vectors = read_table(lake, "features", instrument, start, until, snapshot=snapshot)
    examples = read_table(lake, "examples", instrument, start, until, snapshot=snapshot)
    asked = examples.ts > start
    examples = ExampleTable(
        examples.ts[asked], examples.available[asked], examples.values[asked], examples.targets[asked]
    )
    return TrainingRows(vectors, examples, snapshot)


def _where(table: str, instrument: str, start: int, end: int) -> tuple[str, dict[str, Any]]:
    if table not in tables.SCHEMAS:
        raise BadState(f"the lake has no table {table}; it has {', '.join(tables.SCHEMAS)}")
    window = {"instrument": instrument, "start": start, "end": end}
    # Days prune files; their bounds are kept within what DATE can hold.
    first, last = (max(-700_000, min(2_900_000, tables.day_of(ts))) for ts in (start + 1, end))
    days = pa.array([first, last], pa.int32()).cast(pa.date32()).to_pylist()
    return _WHERE.format(time=tables.TIME[table]), window | {"first": days[0], "last": days[1]}


def _as_of(table: str, snapshot: int | None) -> str:
    return table if snapshot is None else f"{table} AT (VERSION => {int(snapshot)})"


def _groups(days: list[dict[str, Any]]) -> Iterator[tuple[object, object]]:
    """Yield first and last day of runs of days that hold about ``_WINDOW_ROWS`` together."""
    group: list[dict[str, Any]] = []
    for day in days:
        if group and sum(d["n"] for d in group) + day["n"] > _WINDOW_ROWS:
            yield group[0]["day"], group[-1]["day"]
            group = []
        group.append(day)
    if group:
        yield group[0]["day"], group[-1]["day"]


def _check_window(table: str, instrument: str, start: int, end: int, rows: pa.Table) -> None:
    ts = tables.times(rows, tables.TIME[table])
    if not len(ts):
        return
    if pc.unique(rows["instrument"]).to_pylist() != [instrument]:
        raise BadState(f"rows to replace {table} of {instrument} are of another instrument")
    if not (start < ts[0] and ts[-1] <= end and (ts[1:] > ts[:-1]).all()):
        raise BadState(f"rows to replace {table} of {instrument} must increase in time within ({start}, {end}]")


def _staged(lake: Lake, table: str, rows: pa.Table) -> Iterator[Path]:
    """Write the rows where DuckLake keeps this table's files, one file a day, and yield their paths."""
    token = uuid.uuid4().hex
    for day in pc.unique(rows["day"]).to_pylist():
        folder = lake.data / "main" / table / f"day={day:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"backfill-{token}.parquet"
        pq.write_table(rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32()))), path, compression="zstd")
        yield path
