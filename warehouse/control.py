"""The control database: leases, heartbeats, model versions, pins and counters, for every process that shares them.

It is apart from the lake because it needs keys, compare-and-swap and overwriting of single rows, of which the lake
has none. SQLite on one machine, PostgreSQL beyond: only the URL changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from domain.addresses import with_driver
from domain.config import Places
from domain.errors import BadState, Unavailable
from warehouse.control_tables import SCHEMA_VERSION, counters, dead_letters, metadata, schema_version
from warehouse.engines import Pace, engine_of, is_locked, one_line
from warehouse.holders import Holder, writer_of
from warehouse.stores import demand

T = TypeVar("T")


class database_now(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function it is
    """The database's own clock, unix seconds: the one clock that all lease holders share."""

    type = sa.Double()
    inherit_cache = True
    name = "database_now"


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: object, **_options: object) -> str:
    return "database_now()"  # SQLite runs inside the process: its clock is the one that the engine gave it


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: object, **_options: object) -> str:
    return "extract(epoch FROM clock_timestamp())"


STOPPED_S = 20.0
"""Seconds after which a write that meets a stopped holder is not tried again; a try takes up to 10 s more."""


class _Locked(Unavailable):
    """SQLite's write lock did not move."""

    def __init__(self, url: sa.URL) -> None:
        holder = writer_at(url)
        self.worth_waiting = holder is not None and holder.stopped
        whose = f"by {holder}" if holder is not None else "by another process; look at who uses it"
        super().__init__(f"the control database {url!r} is locked {whose}")


class Control:
    """A process's door to the control database; safe to share between threads.

    Parameters
    ----------
    url : SQLAlchemy's, of SQLite or PostgreSQL
    now : the clock of a SQLite database, unix seconds: the machine's, or a simulation's; PostgreSQL has its own
    pace : of reads and writes; who only looks, and looks again soon, need not wait
    """

    def __init__(self, url: str, now: Callable[[], float] = time.time, pace: Pace = Pace.DURABLE) -> None:
        self.url = sa.engine.make_url(with_driver(url))
        self._pace = pace
        self._durable = engine_of(self.url, pace, now)
        self._brisk = engine_of(self.url, Pace.BRISK, now)

    @classmethod
    def open(cls, url: str, pace: Pace = Pace.DURABLE) -> Control:
        """Open the database behind a SQLAlchemy URL, creating its tables when they are not there yet.

        Raises
        ------
        Unavailable
            When it cannot be reached.
        BadState
            When its tables are those of another release.
        """
        control = cls(url, pace=pace)
        try:
            control.prepare()
        except BaseException:
            control.close()
            raise
        return control

    @classmethod
    def of(cls, places: Places, pace: Pace = Pace.DURABLE) -> Control:
        """Open a home's database; see :meth:`open`. One that the home had is never made again.

        Raises
        ------
        BadState
            Also when it is missing, empty or of another home.
        """
        demand(places, "control")
        return cls.open(places.control, pace)

    def prepare(self) -> None:
        """Create the tables when they are not there yet; any number of processes may do so at once."""
        if self.read(_schema) is None:
            self.write(_create)
        found = self.read(_schema)
        if found != SCHEMA_VERSION:
            raise BadState(
                f"the control database {self.url!r} has schema {found}, not {SCHEMA_VERSION}; start from a new home"
            )

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what ``work`` returns, having committed durably all it wrote or, when it raises, nothing.

        ``work`` is repeated when another process inserted the same key first, so it reads afresh what it depends on.

        Raises
        ------
        Unavailable
            When the database cannot be reached or stays locked; the process that holds its lock is named.
        BadState
            When the database refuses the statement.

        Notes
        -----
        A holder that is stopped is waited for longer: its shim ends it within seconds, and until then no other writer
        would fare better after a restart.
        """
        conflicts, until = 4, time.monotonic() + (STOPPED_S if self._pace is Pace.DURABLE else 0.0)
        while True:
            try:
                with self._named(), self._durable.begin() as connection:
                    return work(connection)
            except sa.exc.IntegrityError as error:
                if not conflicts:
                    raise BadState(f"the control database {self.url!r} refused: {one_line(error)}") from error
                conflicts -= 1
            except _Locked as locked:
                if not locked.worth_waiting or time.monotonic() > until:
                    raise

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what ``work`` returns, reading from one snapshot and never waiting for a writer.

        Raises
        ------
        Unavailable, BadState
            As :meth:`write`.
        """
        with self._named(), self._durable.execution_options(read_only=True).begin() as connection:
            return work(connection)

    def attempt(self, work: Callable[[sa.Connection], object]) -> bool:
        """Return whether ``work`` was committed: given up within 250 ms, and possibly lost when the machine dies."""
        try:
            with self._brisk.begin() as connection:
                work(connection)
        except sa.exc.OperationalError:
            return False
        return True

    def count_dead_letter(self, service: str, reason: str, n: int = 1) -> None:
        """Add ``n`` to the dead letters that this service refused for this reason."""
        key = {"service": service, "reason": reason}
        self.write(lambda c: upsert(c, dead_letters, key, {"n": dead_letters.c.n + n}, {"n": n}))

    def dead_letters(self) -> dict[tuple[str, str], int]:
        """Return the number of dead letters by service and reason."""
        rows = self.read(lambda c: c.execute(sa.select(dead_letters)).all())
        return {(row.service, row.reason): row.n for row in rows}

    def close(self) -> None:
        """Close all connections."""
        self._durable.dispose()
        self._brisk.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Map the database's errors to Tidemill's; a lost race for a key stays what it is."""
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            if is_locked(error):
                raise _Locked(self.url) from error
            raise Unavailable(
                f"the control database {self.url!r} cannot be used ({one_line(error)}); is it up and writable?"
            ) from error
        except sa.exc.DBAPIError as error:
            raise BadState(f"the control database {self.url!r} refused: {one_line(error)}") from error


def writer_at(url: str | sa.URL) -> Holder | None:
    """Return the process that holds the write lock of a SQLite control database; None where none can be named.

    A PostgreSQL ends such a transaction itself.
    """
    url = sa.engine.make_url(url)
    return writer_of(Path(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, object],
    values: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
) -> None:
    """Update the row with this key, or insert it with ``first`` (or ``values``) when there is none."""
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if not connection.execute(sa.update(table).where(same).values(**values)).rowcount:
        connection.execute(sa.insert(table).values(**key, **(values if first is None else first)))


def next_id(connection: sa.Connection, name: str) -> int:
    """Return the next id of a kind of rows.

    Ids are drawn from a row that stays locked until the commit, so that they are seen in the order of commits: a
    reader with a cursor misses none.
    """
    mine = counters.c.name == name
    connection.execute(sa.update(counters).where(mine).values(value=counters.c.value + 1))
    return int(connection.execute(sa.select(counters.c.value).where(mine)).scalar_one())


def _schema(connection: sa.Connection) -> int | None:
    if not sa.inspect(connection).has_table("schema_version"):
        return None
    return connection.execute(sa.select(schema_version.c.version)).scalar_one_or_none()


def _create(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite has locked the whole file by now
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('tidemill'))")
    if _schema(connection) is None:
        metadata.create_all(connection)
        connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
        for name in ("versions", "refusals", "roles"):
            connection.execute(sa.insert(counters).values(name=name, value=0))
