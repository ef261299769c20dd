"""The mark that a store carries, which names its home: a row in a database, a file in a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from domain.addresses import with_driver
from domain.errors import Unavailable
from domain.stores import Store
from warehouse.engines import one_line
from warehouse.files import write_atomic
from warehouse.identity import Mark

FILE = "identity.json"
"""The mark in a directory; not hidden, so that whatever empties the directory takes it along."""

_WAIT_S = 5
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_marks = sa.Table(
    "tidemill_identity",
    sa.MetaData(),
    sa.Column("kind", sa.String(16), primary_key=True),  # one database may hold two stores
    sa.Column("home", sa.String(64), nullable=False),
    sa.Column("store", sa.String(64), nullable=False),
)


class Look(NamedTuple):
    """What is found where a store should be.

    Attributes
    ----------
    what, where : the part of a store, and its place, for people
    fault : ``is missing``, ``is empty`` or ``is damaged (why)``; nothing where there is something to be used
    mark : what it carries, None where it carries none
    """

    what: str
    where: str
    fault: str
    mark: Mark | None = None

    @property
    def there(self) -> bool:
        """Whether there is something, whole or not: nothing may be made in its place."""
        return self.fault != "is missing"


def in_database(what: str, url: str, kind: Store, table: str) -> Look:
    """Return what a database carries; SQLite's file is neither made nor changed.

    Parameters
    ----------
    table : without it the database is not that store

    Raises
    ------
    Unavailable
        When a PostgreSQL does not answer.
    """
    where = sa.engine.make_url(with_driver(url))
    named = str(where.database) if _is_file(where) else repr(where)
    if _is_file(where):
        file = Path(named)
        if not file.exists():
            return Look(what, named, "is missing")
        if not file.stat().st_size:
            return Look(what, named, "is empty")
    engine = _engine(where)
    try:
        with engine.connect() as connection:
            tables = sa.inspect(connection)
            if not tables.has_table(table):
                return Look(what, named, "is empty" if _is_file(where) else "is missing")
            if not tables.has_table(_marks.name):
                return Look(what, named, "")
            row = connection.execute(sa.select(_marks).where(_marks.c.kind == kind)).first()
            return Look(what, named, "", None if row is None else Mark(row.home, row.store))
    except sa.exc.DBAPIError as error:
        why = one_line(error)
        if not _is_file(where):
            raise Unavailable(f"the {what} in {named} cannot be asked ({why}); is it up?") from error
        if getattr(error.orig, "sqlite_errorname", "").startswith(_DAMAGED):
            return Look(what, named, f"is damaged ({why})")
        # Locked, or the machine's doing: a full disk, no more open files, not ours to read.
        raise Unavailable(f"the {what} in {named} cannot be asked ({why}); mend that, then try again") from error
    finally:
        engine.dispose()


def mark_database(url: str, kind: Store, mark: Mark) -> None:
    """Let a database that is there carry a mark, in the place of any other."""
    engine = _engine(sa.engine.make_url(with_driver(url)))
    try:
        with engine.begin() as connection:
            write_mark(connection, kind, mark)
    finally:
        engine.dispose()


def write_mark(connection: sa.Connection, kind: Store, mark: Mark) -> None:
    """Let a database carry a mark from the end of this transaction on."""
    _marks.create(connection, checkfirst=True)
    connection.execute(sa.delete(_marks).where(_marks.c.kind == kind))
    connection.execute(sa.insert(_marks).values(kind=kind, home=mark.home, store=mark.store))


def in_directory(what: str, path: Path) -> Look:
    """Return what a directory carries."""
    file = path / FILE
    try:
        found = json.loads(file.read_bytes())
        return Look(what, str(path), "", Mark(str(found["home"]), str(found["store"])))
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_dir():
            return Look(what, str(path), "is missing")
        return Look(what, str(path), "" if any(path.iterdir()) else "is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Look(what, str(path), f"is damaged ({file.name}: {error})")


def mark_directory(path: Path, mark: Mark) -> None:
    """Let a directory, made where there is none, carry a mark."""
    write_atomic(path / FILE, json.dumps(mark._asdict()).encode())


def _is_file(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: sa.URL) -> sa.Engine:
    wait = {"timeout": _WAIT_S} if _is_file(url) else {"connect_timeout": _WAIT_S}
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args=wait)
