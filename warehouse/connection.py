"""A DuckDB connection with the lake attached, and what its errors mean: the one place that maps DuckDB's errors."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import duckdb

from domain.errors import BadState, TidemillError, Unavailable

T = TypeVar("T")
Mode = Literal["create", "write", "read"]

_EXTENSIONS = ("sqlite_scanner", "ducklake")
_MEMORY = "512MB"  # reads go by windows of at most some days: measured at 10 million rows, 256 MB were enough
_THREADS = 2
_BUSY = ("database is locked", "database table is locked", "transaction conflict", "could not set lock")
_STALE = ("no such file", "ducklake_inlined_data_", "internal error", "fatal error", "database has been invalidated")
_FULL = ("no space left on device", "disk is full")
_ROOM = 64 << 10  # bytes, what SQLite needs for the index of its log alone


def connect(catalog: Path, data: Path, mode: Mode) -> duckdb.DuckDBPyConnection:
    """Return a connection that uses the lake, needing neither network nor home directory.

    Parameters
    ----------
    catalog : the SQLite file that names the lake's tables, snapshots and files
    data : directory of the lake's Parquet files; wherever it is now, not where the catalog remembers it
    mode : ``create`` makes the catalog
    """
    spill = (
        catalog.parent / "tmp" / f"{os.getpid()}-{random.getrandbits(32):08x}"
    )  # never shared: DuckDB's names collide
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": _MEMORY,
            "threads": _THREADS,
            "temp_directory": str(spill),
        }
    )
    # The busy timeout is 0 because SQLite's own waiting sleeps whole seconds; the retries here are shorter.
    options = [f"DATA_PATH {_quoted(f'{data}/')}", "OVERRIDE_DATA_PATH true", "META_BUSY_TIMEOUT 0"]
    options.append(
        {"create": "META_JOURNAL_MODE 'WAL'", "write": "CREATE_IF_NOT_EXISTS false", "read": "READ_ONLY"}[mode]
    )
    # No inlining: flushing inlined rows breaks attached readers (ducklake issues 1305 and 1413).
    options.append("DATA_INLINING_ROW_LIMIT 0")
    try:
        for name in _EXTENSIONS:
            connection.execute(f"LOAD {_quoted(str(_extension(name)))}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"ATTACH {_quoted(f'ducklake:sqlite:{catalog}')} AS lake ({', '.join(options)})")
        connection.execute("USE lake")
    except BaseException:
        connection.close()
        raise
    return connection


def patiently(attempt: Callable[[], T], lake: Path, wait_s: float, renew: Callable[[], None] | None = None) -> T:
    """Return what ``attempt`` returns, repeating it while the lake is busy.

    Parameters
    ----------
    attempt : has no effect when it raises, and reads afresh whatever it depends on
    lake : for messages
    wait_s : how long a busy lake is borne, seconds
    renew : called once when the connection has gone stale, before one more attempt

    Raises
    ------
    Unavailable
        When the lake stays busy or cannot be read.
    BadState
        When the disk is full, or DuckDB refuses what was asked.
    """
    deadline = time.monotonic() + wait_s
    tries = 0
    while True:
        try:
            return attempt()
        except duckdb.Error as error:
            text = str(error).lower()
            if renew is not None and any(sign in text for sign in _STALE):
                patiently(renew, lake, wait_s)
                renew = None
            elif any(sign in text for sign in _BUSY) and time.monotonic() < deadline:
                time.sleep(random.random() * min(0.5, 0.01 * 2 ** min(tries, 6)))
                tries += 1
            else:
                raise _translated(error, lake) from error


def _translated(error: duckdb.Error, lake: Path) -> TidemillError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = str(error).lower()
    if any(sign in text for sign in _FULL) or _is_full(lake):
        return BadState(f"the disk of the lake in {lake} is full; free space and start again, nothing landed is lost")
    if any(sign in text for sign in _BUSY):
        return Unavailable(f"the lake in {lake} stays busy ({first}); see which processes write to it")
    if any(sign in text for sign in _STALE) or isinstance(error, duckdb.IOException):
        return Unavailable(f"the lake in {lake} cannot be read ({first}); start this process again")
    if "no snapshot found" in text:
        return BadState(f"the lake in {lake} has expired this snapshot ({first}); pin snapshots that must be kept")
    return BadState(f"the lake in {lake} refused: {first}")


def _is_full(lake: Path) -> bool:
    """Tell whether the lake's disk has no room: SQLite says so in many words, of which few name it."""
    try:
        return shutil.disk_usage(lake).free < _ROOM
    except OSError:
        return False


def _extension(name: str) -> Path:
    """Return the extension inside its wheel: loading by path works offline and never updates itself."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"the package duckdb-extension-{name.replace('_', '-')} is missing; install tidemill again")
    root = Path(spec.submodule_search_locations[0])
    return root / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
