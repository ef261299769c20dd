"""Upkeep of the lake: small files merged, old snapshots expired, nothing removed that a pin or a reader needs."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass

import sqlalchemy as sa

from warehouse.control import Control, database_now, upsert
from warehouse.control_tables import pins
from warehouse.lake import Connection, Lake
from warehouse.tables import SCHEMAS

KEEP_S = 86_400.0
"""Age at which a snapshot may expire, seconds: longer than any reading that does not pin."""

_EXPIRE_AT_ONCE = 1_000
_GRACE = "now() - INTERVAL 2 DAY"
# The SQLite catalog compares times by UTC date only, so that one day may be minutes just after midnight.


@dataclass(frozen=True)
class Tidied:
    """What one round of upkeep did."""

    merged_files: int
    expired_snapshots: int
    removed_files: int


def pin(lake: Lake, control: Control, holder: str, ttl_s: float | None = None) -> int:
    """Pin the newest snapshot and return it: it stays readable, bit for bit, until unpinned.

    Parameters
    ----------
    lake : open for writing: the pin is taken between two commits, so that no upkeep comes in between
    holder : who needs it, such as a run id
    ttl_s : seconds after which the pin no longer holds; None is for good
    """

    def work(connection: Connection) -> int:
        snapshot = int(connection.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchall()[0][0])
        until = {"until": None if ttl_s is None else database_now() + ttl_s}
        control.write(lambda c: upsert(c, pins, {"holder": holder, "snapshot": snapshot}, until))
        return snapshot

    return lake.write(work)


def unpin(control: Control, holder: str) -> None:
    """Give up all pins of a holder."""
    control.write(lambda c: c.execute(sa.delete(pins).where(pins.c.holder == holder)))


def pinned(control: Control) -> set[int]:
    """Return the snapshots that someone still needs."""
    held = sa.or_(pins.c.until.is_(None), pins.c.until > database_now())
    return set(control.read(lambda c: c.execute(sa.select(pins.c.snapshot).where(held)).scalars().all()))


def tidy(lake: Lake, control: Control, keep_s: float = KEEP_S) -> Tidied:
    """Do one short round of upkeep: merge small files, expire up to 1,000 old snapshots, remove unneeded files.

    Parameters
    ----------
    keep_s : age at which a snapshot without a pin expires, seconds

    Raises
    ------
    Unavailable, BadState
        As ``Lake.write``. On a full disk upkeep fails too: it writes before it removes.

    Notes
    -----
    Each step holds the writers' lock on its own and for a fraction of a second; call it every few minutes. The
    newest snapshot and pinned ones never expire; a file outlives its last snapshot by one to two days.
    """
    return Tidied(merge(lake), *expire(lake, control, keep_s))


def merge(lake: Lake) -> int:
    """Make one file of adjacent small ones, table by table; return how many there were."""
    return sum(_merged(lake, table) for table in SCHEMAS)


def expire(lake: Lake, control: Control, keep_s: float = KEEP_S) -> tuple[int, int]:
    """Expire up to 1,000 snapshots older than ``keep_s`` that nobody pinned, and remove files that none names.

    Returns
    -------
    tuple of int
        Snapshots and files.
    """
    expired = lake.write(lambda c: _expire(c, pinned(control), keep_s))
    removed = lake.write(
        lambda c: len(c.execute(f"CALL ducklake_cleanup_old_files('lake', older_than => {_GRACE})").fetchall())
    )
    return expired, removed


def sweep(lake: Lake) -> int:
    """Remove what killed processes left behind, data files that no snapshot knows and spilled rows; count the former.

    Only files older than two days: a younger one may be on its way into a commit. It lists all data files; call it
    daily.
    """
    for folder in (lake.root / "tmp").glob("*-*"):
        if not _alive(int(folder.name.split("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)
    removed = lake.query(f"FROM ducklake_delete_orphaned_files('lake', older_than => {_GRACE})")
    return int(removed.num_rows)


def _merged(lake: Lake, table: str) -> int:
    done = lake.write(lambda c: c.execute("CALL ducklake_merge_adjacent_files('lake', ?)", [table]).fetchall())
    return sum(int(row[2]) for row in done)


def _expire(connection: Connection, keep: set[int], keep_s: float) -> int:
    # By explicit list: expiry by age takes pinned snapshots as well, and counts days rather than seconds.
    old = connection.execute(
        "SELECT snapshot_id FROM __ducklake_metadata_lake.ducklake_snapshot "
        "WHERE snapshot_time::TIMESTAMPTZ < now() - to_seconds(?) AND NOT list_contains(?::BIGINT[], snapshot_id) "
        "AND snapshot_id < (SELECT max(snapshot_id) FROM __ducklake_metadata_lake.ducklake_snapshot) "
        "ORDER BY snapshot_id LIMIT ?",
        [keep_s, sorted(keep), _EXPIRE_AT_ONCE],
    ).fetchall()
    if old:
        connection.execute("CALL ducklake_expire_snapshots('lake', versions => ?)", [[int(row[0]) for row in old]])
    return len(old)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        return True
    return False
