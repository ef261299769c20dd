"""One moment of a running home: its databases as they stand, and the files that they name, kept while they are copied.

Nothing is stopped. For some tens of milliseconds no version is published and nothing lands; what is copied later is
what there was then: databases are read from a snapshot, and files, which are never changed but only replaced or grown,
stay under a second name however long ago their owner removed them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from domain.config import Places
from domain.errors import BadState, Unavailable
from warehouse.control import Control
from warehouse.control_tables import versions
from warehouse.files import exclusive
from warehouse.lake import WAIT_S

CONTROL, CATALOG = "control.sqlite", "lake/catalog.sqlite"
"""The two databases of a moment, below home."""

_BUSY_S = 10.0

_DATA_FILES = """
    SELECT s.path, s.path_is_relative, t.path, t.path_is_relative, f.path, f.path_is_relative
    FROM (SELECT table_id, path, path_is_relative FROM ducklake_data_file
          UNION ALL SELECT table_id, path, path_is_relative FROM ducklake_delete_file) f
    JOIN ducklake_table t ON t.table_id = f.table_id JOIN ducklake_schema s ON s.schema_id = t.schema_id
"""


@dataclass
class Moment:
    """What a home held at one moment.

    Attributes
    ----------
    home : the running home
    kept : directory of second names of its files, on the same disk
    files : path below home -> bytes of the file that belong to the moment
    databases : path below home -> a reading of the database as it was then
    missing : paths that a database names, and that are not there
    """

    home: Path
    kept: Path
    files: dict[str, int] = field(default_factory=dict)
    databases: dict[str, sqlite3.Connection] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def keep(self, path: Path) -> bool:
        """Keep a file at its present size; return whether it is there."""
        name = path.relative_to(self.home).as_posix()
        second = self.kept / name
        second.parent.mkdir(parents=True, exist_ok=True)
        second.unlink(missing_ok=True)
        try:
            os.link(path, second)
        except FileNotFoundError:
            return False
        except OSError:  # a disk without second names
            shutil.copyfile(path, second)
        self.files[name] = second.stat().st_size
        return True

    def keep_tree(self, folder: Path) -> None:
        """Keep all files below a directory but those that are just being written."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.keep(path)

    def keep_named(self, path: Path) -> None:
        """Keep a file that a database names, or note that it is missing."""
        name = path.relative_to(self.home).as_posix()
        if name not in self.files and not self.keep(path):
            self.missing.append(name)

    def stand(self, path: Path) -> sqlite3.Connection:
        """Begin a reading of a database that goes on showing what is there now."""
        reading = _reading(path)
        self.databases[path.relative_to(self.home).as_posix()] = reading
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot is taken by the first read
        return reading

    def close(self) -> None:
        """End the readings; the kept files go with their directory."""
        for reading in self.databases.values():
            reading.close()


@contextlib.contextmanager
def moment_of(places: Places, kept: Path, more: Callable[[Moment], None]) -> Iterator[Moment]:
    """Hold one moment of a home: control database, artifacts, lake, services' state, and ``more``.

    Parameters
    ----------
    kept : directory for second names, on the home's disk
    more : keeps what else belongs to the moment; called while no version is published and nothing lands

    Raises
    ------
    Unavailable
        When control database or lake stay busy.

    Notes
    -----
    What points at something is fixed before what it points at: a version, a landed row or a service's state names
    offsets of logs, and logs only grow. ``more`` keeps the logs, and so comes last.
    """
    moment = Moment(places.home.absolute(), kept)
    try:
        with Control.of(places) as control, _nothing_lands(places):
            control.write(lambda connection: _hold(moment, places, connection, more))
        yield moment
    finally:
        moment.close()


def _hold(moment: Moment, places: Places, connection: sa.Connection, more: Callable[[Moment], None]) -> None:
    if not places.control_url:
        moment.stand(moment.home / CONTROL)
    for path in connection.execute(sa.select(versions.c.path)).scalars():
        moment.keep_named(places.models / path)
    catalog = moment.home / CATALOG
    if catalog.exists():
        for path in data_files(moment.stand(catalog), places.lake / "data"):
            moment.keep_named(path)
    moment.keep_tree(places.state)
    more(moment)


@contextlib.contextmanager
def _nothing_lands(places: Places) -> Iterator[None]:
    if not places.lake.is_dir():
        yield
        return
    with exclusive(places.lake / "writer.lock", WAIT_S):
        yield


def data_files(catalog: sqlite3.Connection, data: Path) -> list[Path]:
    """Return the files of all rows and deletions that any snapshot of a lake's catalog shows.

    Raises
    ------
    BadState
        When one is not below the lake's own directory.
    """
    found = []
    for parts in catalog.execute(_DATA_FILES):
        path = data
        for text, relative in zip(parts[::2], parts[1::2], strict=True):
            path = path / text if relative else Path(text)
        if not path.is_relative_to(data):
            raise BadState(f"the lake's catalog names {path}, which is not below {data}; move it there first")
        found.append(path)
    return found


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database that others may be using, whole and of one moment; see :func:`copy_reading`.

    Raises
    ------
    FileNotFoundError
        When it is not there, or not any more.
    Unavailable
        When it cannot be opened, and as ``copy_reading``.
    """
    try:
        reading = _reading(source)
    except sqlite3.OperationalError as error:
        source.stat()
        raise Unavailable(f"{source} cannot be opened ({error}); try again") from error
    with closing(reading):
        copy_reading(reading, target)


def copy_reading(reading: sqlite3.Connection, target: Path) -> None:
    """Copy a SQLite database as a reading of it shows it.

    Raises
    ------
    Unavailable
        When the disk refuses.
    """
    try:
        with closing(sqlite3.connect(target)) as made:
            reading.backup(made)
    except sqlite3.Error as error:
        raise Unavailable(f"{target} cannot be written ({error}); make room on its disk and begin again") from error
    for name in ("-wal", "-shm"):
        target.with_name(target.name + name).unlink(missing_ok=True)


def fault_of(database: Path) -> str:
    """Return what SQLite finds wrong with a database, nothing when it is whole."""
    try:
        with closing(_reading(database)) as reading:
            found = str(reading.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else found


def _reading(path: Path) -> sqlite3.Connection:
    # Not mode=ro: a reader of a write-ahead log may have to make the index of it.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None)
