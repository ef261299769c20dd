"""A twin of the lake on plain DuckDB in memory: the same tables and statements, without DuckLake's 50 ms a commit.

What is DuckLake's own is answered here: one snapshot a commit, of which only the newest can be read, files that are
added by reading them, and upkeep that has nothing to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.simulation.faults import Fuses
from warehouse import schema

_AS_OF = re.compile(r" AT \(VERSION => \d+\)")
_SNAPSHOT = re.compile(r"ducklake_(current_snapshot|last_committed_snapshot)\('lake'\)")


class Pool:
    """The state of the lake, which outlives the processes that open it.

    Attributes
    ----------
    commits : how many, ever; also the number of the newest snapshot
    before_write : called before a transaction, so that others may come first
    """

    def __init__(self, root: Path, fuses: Fuses) -> None:
        self.root, self.fuses, self.commits = root, fuses, 0
        self.before_write: Callable[[], None] = lambda: None
        self.connection = duckdb.connect(config={"threads": 1})
        for migration in schema.migrations():
            lines = migration.sql.splitlines()
            self.connection.execute("\n".join(line for line in lines if "SET PARTITIONED BY" not in line))

    def open(self) -> Twin:
        """Return a process's door to the lake."""
        return Twin(self)

    def rows(self, sql: str) -> list[tuple]:
        """Return rows for the judge, who cannot die."""
        return self.connection.execute(sql).fetchall()

    def table(self, sql: str) -> pa.Table:
        """Return a table for the judge."""
        return self.connection.execute(sql).to_arrow_table()


class Twin:
    """See ``warehouse.lake.Lake``."""

    read_only = False

    def __init__(self, pool: Pool) -> None:
        self._pool, self.root = pool, pool.root

    @property
    def data(self) -> Path:
        """Where files are staged."""
        return self.root / "data"

    def write(self, work: Callable, *, message: str = "") -> object:
        """See ``Lake``; a death before the commit rolls back."""
        pool = self._pool
        pool.before_write()
        pool.fuses.point()
        pool.connection.execute("BEGIN")
        try:
            result = work(_Statements(pool))
            pool.fuses.point()
        except BaseException:
            pool.connection.execute("ROLLBACK")
            raise
        pool.connection.execute("COMMIT")
        pool.commits += 1
        pool.fuses.point()
        return result

    def query(self, sql: str, parameters: object = ()) -> pa.Table:
        """See ``Lake``."""
        self._pool.fuses.point()
        if _SNAPSHOT.search(sql):
            return pa.table({"id": [self._pool.commits]})
        return self._pool.connection.execute(_AS_OF.sub("", sql), parameters).to_arrow_table()

    def snapshot(self) -> int:
        """See ``Lake``."""
        return self._pool.commits

    def close(self) -> None:
        """Leave; the pool stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Statements:
    """A connection inside a transaction, that answers for DuckLake."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._answer: list[tuple] | None = None
        self.register, self.unregister = pool.connection.register, pool.connection.unregister

    def execute(self, sql: str, parameters: object = ()) -> _Statements:
        """Run one statement."""
        self._pool.fuses.point()
        self._answer = None
        if "ducklake_add_data_files" in sql:
            table, paths = parameters
            for path in paths:
                self.register("added", pq.ParquetFile(path).read())
                self._pool.connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM added")  # noqa: S608
                self.unregister("added")
            self._answer = []
        elif _SNAPSHOT.search(sql):
            self._answer = [(self._pool.commits,)]
        elif "ducklake" in sql:
            self._answer = []
        else:
            self._pool.connection.execute(sql, parameters)
        return self

    def fetchall(self) -> list[tuple]:
        """Return the rows."""
        return self._pool.connection.fetchall() if self._answer is None else self._answer
