"""Database engines at two paces: durable for records, brisk for heartbeats."""

from __future__ import annotations

import enum
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from domain.addresses import with_driver
from domain.errors import BadState, Unavailable, UsageError

_BACKENDS = ("sqlite", "postgresql")
_CONNECT_S = 5
_CONTROL = "TIDEMILL_CONTROL_URL"
_MAGIC = b"SQLite format 3\0"
_IDLE_MS = 10_000
"""For which a PostgreSQL keeps a transaction whose client says nothing: ours compute next to nothing inside of one."""

EXTRA = "install Tidemill's extra: pip install 'tidemill[postgres]'"


class Pace(enum.Enum):
    """How long a transaction waits for another, and what a commit promises.

    ``DURABLE`` waits 10 s and survives the machine's death; ``BRISK`` gives up after 250 ms and may lose the last
    moments: a beat that comes late says nothing that the next one does not say better.
    """

    DURABLE = (10_000, "FULL")
    BRISK = (250, "NORMAL")


def engine_of(url: sa.URL, pace: Pace, now: Callable[[], float] = time.time) -> sa.Engine:
    """Return an engine for SQLite or PostgreSQL.

    Parameters
    ----------
    now : what ``database_now()`` is in SQLite, unix seconds

    Raises
    ------
    UsageError
        When the URL names another database, or a driver that is not installed.
    """
    backend = url.get_backend_name()
    if backend not in _BACKENDS:
        raise UsageError(f"TIDEMILL_CONTROL_URL: {backend} is not supported; use sqlite or postgresql")
    if backend == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = sa.create_engine(url, json_serializer=to_json, pool_pre_ping=backend != "sqlite")
    except ModuleNotFoundError as error:
        raise UsageError(f"TIDEMILL_CONTROL_URL: the driver {error.name} is not installed; {EXTRA}") from error
    if backend == "sqlite":
        _prepare_sqlite(engine, *pace.value, now)
    else:
        _prepare_postgresql(engine, *pace.value)
    return engine


def probe(url: str, variable: str) -> str:
    """Return the name and version of the PostgreSQL server behind a URL.

    Parameters
    ----------
    variable : where the URL was set, for the message

    Raises
    ------
    UsageError
        When the driver, or what Dagster needs beside it, is not installed.
    Unavailable
        When the server cannot be reached within 5 s or refuses the user.
    """
    for needed in ("psycopg2", "dagster_postgres"):
        if importlib.util.find_spec(needed) is None:
            raise UsageError(f"{variable}: {needed} is not installed; {EXTRA}")
    engine = sa.create_engine(with_driver(url), poolclass=sa.NullPool, connect_args={"connect_timeout": _CONNECT_S})
    try:
        with engine.connect() as connection:
            return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar_one()}"
    except sa.exc.OperationalError as error:
        raise Unavailable(f"{variable}: {engine.url!r} cannot be used ({one_line(error)}); is it up?") from error


def try_control(url: str) -> None:
    """Try the control database that ``TIDEMILL_CONTROL_URL`` names; nothing is made.

    Raises
    ------
    UsageError
        When a SQLite file cannot be there, or a driver is not installed.
    BadState
        When the file holds something else than SQLite.
    Unavailable
        When the PostgreSQL server cannot be reached within 5 s or refuses the user.
    """
    if not url:
        return
    if sa.engine.make_url(with_driver(url)).get_backend_name() != "sqlite":
        probe(url, _CONTROL)
        return
    path = Path(url.partition(":///")[2])
    if not path.parent.is_dir():
        raise UsageError(f"{_CONTROL}: the directory {path.parent} does not exist; make it, or name another file")
    if path.is_dir():
        raise UsageError(f"{_CONTROL}: {path} is a directory; name a file in it, such as {path / 'control.sqlite'}")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        raise UsageError(f"{_CONTROL}: {path} cannot be written; change its permissions, or name another file")
    demand_sqlite(path)


def demand_sqlite(path: Path) -> None:
    """Raise ``BadState`` when something is there that is not a SQLite database."""
    if path.is_dir():
        raise BadState(
            f"{path} is a directory, not a database; move it away, or begin again with another TIDEMILL_HOME"
        )
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start and start != _MAGIC:
        raise BadState(f"{path} is not a SQLite database; restore it, or begin again with another TIDEMILL_HOME")


def one_line(error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> str:
    """Return what the driver said, in one line: PostgreSQL's errors have several, with tabs."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_locked(error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> bool:
    """Return whether SQLite gave up because another process held its lock for as long as the pace waits."""
    return getattr(getattr(error, "orig", None), "sqlite_errorname", "").startswith("SQLITE_BUSY")


def to_json(value: object) -> str:
    """Return canonical JSON; a number that is not finite becomes null, as JSON has no other word for "unknown".

    >>> to_json({"skill": float("nan"), "n": 3})
    '{"n":3,"skill":null}'
    """
    return msgspec.json.encode(value, enc_hook=_plain, order="sorted").decode()


def _plain(value: Any) -> object:  # noqa: ANN401 - whatever JSON does not know
    return value.item() if hasattr(value, "item") else str(value)  # numpy's scalars


def _prepare_sqlite(engine: sa.Engine, wait_ms: int, synchronous: str, now: Callable[[], float]) -> None:
    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's own
        connection.isolation_level = None  # the driver shall not begin transactions: the next listener does
        connection.create_function("database_now", 0, now)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {wait_ms}")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            _turn_to_wal(cursor)
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: a transaction that read first could never be upgraded after another commit.
        reading = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _turn_to_wal(cursor: Any, wait_s: float = 10.0) -> None:  # noqa: ANN401 - sqlite3's own
    """Switch to the write-ahead log; SQLite does not wait for this lock itself when processes race to be first."""
    import sqlite3

    deadline = time.monotonic() + wait_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _prepare_postgresql(engine: sa.Engine, wait_ms: int, synchronous: str) -> None:
    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
        # A client that is stopped in the middle of a transaction, or cut off, loses it and its locks.
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MS}")
        if synchronous != "FULL":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
