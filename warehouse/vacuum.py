"""The space that deleted rows left in a SQLite file, given back to the disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

WORTH_BYTES = 16_000_000
"""Empty pages below this are left for the rows to come."""

_WAIT_S = 5.0


def vacuum(path: Path) -> int:
    """Rewrite the file without its empty pages when these are more than half of it; return the bytes given back.

    Notes
    -----
    Readers go on meanwhile, writers wait for a second per 100 MB or so. When the file stays locked for 5 s, or the
    disk has no room for the copy, nothing is done: the empty pages are filled with new rows anyway.
    """
    with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
        try:
            size, pages, empty = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_size", "page_count", "freelist_count")
            )
            if size * empty < WORTH_BYTES or 2 * empty < pages:
                return 0
            before = path.stat().st_size
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return 0
    return before - path.stat().st_size
