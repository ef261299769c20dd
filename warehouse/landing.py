"""Landing: a topic's rows and how far they go, in one transaction, so that each record rests in the lake exactly once.

Two guards stand behind each other. The offset fences landers against each other and against their own past: a
record below the stored offset has landed. The time fences what was sent twice: a row not newer than the newest one
landed from its partition is a re-emission, or lies before the seam and came with the backfill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from domain.errors import BadState
from warehouse import tables
from warehouse.lake import Connection, Lake

Key = tuple[str, int]


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one partition, ready to land.

    Attributes
    ----------
    table : where the rows go
    topic, partition : where they come from
    rows : pa.Table
        As ``tables.records_to_rows`` makes them: the table's columns, then ``off`` (each record's offset), in order
        of offset; records that were refused are absent.
    next_offset : int
        The offset after the last record read, refused ones included.
    floor : int
        Where this partition's stream begins, ns: rows at or before it are history. It counts only when the
        partition has never landed anything.
    log : str
        Identity of the log that the offsets belong to; in a topic made anew they mean nothing.
    """

    table: str
    topic: str
    partition: int
    rows: pa.Table
    next_offset: int
    floor: int = 0
    log: str = ""

    @property
    def key(self) -> Key:
        """Topic and partition."""
        return self.topic, self.partition


@dataclass(frozen=True)
class Landed:
    """How far a partition has landed: next offset to read, time of the newest row (or the floor), ns, and which log."""

    next_offset: int
    last_ts: int
    log: str = ""


def landed(lake: Lake, topic: str, partition: int) -> Landed | None:
    """Return how far this partition has landed, or None when it never has."""
    return all_landed(lake).get((topic, partition))


def all_landed(lake: Lake) -> dict[Key, Landed]:
    """Return how far each partition has landed, by topic and partition."""
    rows = lake.query("SELECT topic, part, next_offset, last_ts, log FROM consumer_offsets").to_pylist()
    return {(r["topic"], r["part"]): Landed(r["next_offset"], r["last_ts"], r["log"]) for r in rows}


def realign(lake: Lake, starts: Mapping[Key, tuple[int, str]]) -> None:
    """Let partitions that have landed before go on from another offset, of another log: (offset, log) each.

    For a topic that was made anew or has lost its end. The newest row's time stays, and goes on fencing repetitions.
    """

    def work(connection: Connection) -> None:
        stored = _stored(connection)
        moved = {
            key: Landed(offset, stored[key].last_ts, log) for key, (offset, log) in starts.items() if key in stored
        }
        if moved:
            _move(connection, moved)

    lake.write(work, message="realign")


def land(lake: Lake, batches: Sequence[Batch]) -> list[int]:
    """Land all batches in one transaction.

    Returns
    -------
    list of int
        Rows inserted, by batch. Fewer than it holds when part of it had landed before; 0 when all had.

    Raises
    ------
    BadState
        When a batch is malformed, two are of one partition, or one is of another log than the lake's offset.
    Unavailable
        When the lake stays busy.

    Notes
    -----
    Safe to repeat, to kill at any instant, and to run in two processes at once: each attempt reads the stored
    offsets afresh, and updates them in the same transaction. Commit the consumer group's offset afterwards; on start,
    seek to ``landed``.
    """
    prepared = [_prepared(batch) for batch in batches]
    if len({batch.key for batch in batches}) < len(batches):
        raise BadState("two batches of one partition in one landing; concatenate them first")
    inserted = lake.write(lambda connection: _land(connection, prepared))
    if inserted is None:
        # The rows of new partitions are created in a transaction of their own: from then on it is always an UPDATE,
        # which conflicts with any other, that moves an offset. Two INSERTs would not conflict.
        lake.write(lambda connection: _enrol(connection, batches))
        inserted = lake.write(lambda connection: _land(connection, prepared))
    if inserted is None:
        raise BadState(f"the offsets of {[b.key for b in batches]} vanished from the lake in {lake.root}; restore it")
    return inserted


@dataclass(frozen=True)
class _Prepared:
    batch: Batch
    offsets: npt.NDArray[np.int64]
    ts: npt.NDArray[np.int64]


def _prepared(batch: Batch) -> _Prepared:
    where = f"{batch.topic}/{batch.partition}"
    if batch.rows.schema.names[-1:] != ["off"]:
        raise BadState(f"rows of {where} lack the last column 'off'; make them with tables.records_to_rows")
    tables.check(batch.table, batch.rows.drop_columns(["off"]))
    offsets = tables.times(batch.rows, "off")
    if len(offsets) and (np.any(np.diff(offsets) <= 0) or offsets[-1] >= batch.next_offset):
        raise BadState(
            f"offsets of {where} do not increase up to next_offset {batch.next_offset}; keep the topic's order"
        )
    if len(set(batch.rows["instrument"].to_pylist())) > 1:
        raise BadState(f"{where} holds several instruments; one partition carries one instrument")
    return _Prepared(batch, offsets, tables.times(batch.rows, tables.TIME[batch.table]))


def _land(connection: Connection, prepared: Sequence[_Prepared]) -> list[int] | None:
    """Insert what is new and move the offsets; None when a partition has no offset row yet."""
    stored = _stored(connection)
    if any(p.batch.key not in stored for p in prepared):
        return None
    for p in prepared:
        if stored[p.batch.key].log != p.batch.log:
            raise BadState(f"{p.batch.topic}/{p.batch.partition} was made anew; start the lander again: it realigns")
    inserted: list[int] = []
    moved: dict[Key, Landed] = {}
    fresh: dict[str, list[pa.Table]] = {name: [] for name in tables.SCHEMAS}
    for p in prepared:
        before = stored[p.batch.key]
        keep = _is_new(p, before)
        rows = p.batch.rows.filter(pa.array(keep)).drop_columns(["off"])
        fresh[p.batch.table].append(rows)
        inserted.append(rows.num_rows)
        if p.batch.next_offset > before.next_offset:
            newest = max([before.last_ts, *p.ts[keep][-1:].tolist()])
            moved[p.batch.key] = Landed(p.batch.next_offset, newest, p.batch.log)
    for table, parts in fresh.items():
        if any(part.num_rows for part in parts):
            insert(connection, table, pa.concat_tables(parts))
    if moved:
        _move(connection, moved)
    return inserted


def _stored(connection: Connection) -> dict[Key, Landed]:
    rows = connection.execute("SELECT topic, part, next_offset, last_ts, log FROM consumer_offsets").fetchall()
    return {(topic, part): Landed(next_offset, last_ts, log) for topic, part, next_offset, last_ts, log in rows}


def _is_new(p: _Prepared, before: Landed) -> npt.NDArray[np.bool_]:
    """Rows at or past the stored offset and newer than every row before them, landed or in this batch."""
    newest = np.maximum.accumulate(np.concatenate([[before.last_ts], p.ts]))[:-1]
    return (p.offsets >= before.next_offset) & (p.ts > newest)


def _move(connection: Connection, moved: dict[Key, Landed]) -> None:
    # It rewrites every row: then the table's one file ends and one new file begins, with no delete file beside it.
    _register(connection, "moved", moved)
    try:
        connection.execute(
            "UPDATE consumer_offsets SET next_offset = n.next_offset, last_ts = n.last_ts, log = n.log,"
            "  updated_at = now() FROM ("
            "  SELECT topic, part, coalesce(m.next_offset, o.next_offset) AS next_offset,"
            "  coalesce(m.last_ts, o.last_ts) AS last_ts, coalesce(m.log, o.log) AS log"
            "  FROM consumer_offsets o LEFT JOIN moved m USING (topic, part)"
            ") n WHERE n.topic = consumer_offsets.topic AND n.part = consumer_offsets.part"
        )
    finally:
        connection.unregister("moved")


def _enrol(connection: Connection, batches: Iterable[Batch]) -> None:
    _register(connection, "arrived", {batch.key: Landed(0, batch.floor, batch.log) for batch in batches})
    try:
        connection.execute(
            "INSERT INTO consumer_offsets BY NAME SELECT *, now() AS updated_at FROM arrived "
            "ANTI JOIN consumer_offsets USING (topic, part)"
        )
    finally:
        connection.unregister("arrived")


def insert(connection: Connection, table: str, rows: pa.Table) -> None:
    """Append rows to a table, within the caller's transaction."""
    connection.register("fresh", rows)
    try:
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM fresh")  # noqa: S608 - a name of SCHEMAS
    finally:
        connection.unregister("fresh")


def _register(connection: Connection, name: str, offsets: dict[Key, Landed]) -> None:
    columns = {
        "topic": pa.array([topic for topic, _ in offsets], pa.string()),
        "part": pa.array([part for _, part in offsets], pa.int32()),
        "next_offset": pa.array([o.next_offset for o in offsets.values()], pa.int64()),
        "last_ts": pa.array([o.last_ts for o in offsets.values()], pa.int64()),
        "log": pa.array([o.log for o in offsets.values()], pa.string()),
    }
    connection.register(name, pa.table(columns))
