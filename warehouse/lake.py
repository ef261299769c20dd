"""The lake: DuckLake tables that many processes share, with the one way to write them and the one way to read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb
import pyarrow as pa

from domain.config import Places
from domain.errors import Unavailable
from warehouse import schema
from warehouse.connection import Mode, connect, patiently
from warehouse.files import exclusive
from warehouse.identity import Mark, founding
from warehouse.marks import mark_database, mark_directory
from warehouse.stores import catalog_of, data_of, demand

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection

WAIT_S = 60.0
"""How long a busy lake is borne: longer than any commit or maintenance step, shorter than a person's patience."""


class Lake:
    """One process's door to the lake; open it with :meth:`open`, one a thread.

    Any number of processes of one machine may hold it open. Commits are serialised by a lock beside the catalog;
    a reader sees each commit whole, at once, and is never blocked by a writer.
    """

    def __init__(self, root: Path, *, read_only: bool) -> None:
        self.root = root
        self.read_only = read_only
        self._connection = self._connected()

    @classmethod
    def open(cls, places: Places, *, read_only: bool = False) -> Lake:
        """Open the lake below ``places.home``, creating it when the home never had one.

        Parameters
        ----------
        read_only : refuses writes, as a guard against mistakes; neither creates nor migrates

        Raises
        ------
        Unavailable
            When it must exist or be migrated first, or cannot be reached.
        BadState
            When its tables are not those of this release, or the lake that the home had is lost.
        """
        root = places.lake
        demand(places, "lake")
        if not catalog_of(root).exists():
            if read_only:
                raise Unavailable(f"there is no lake in {root} yet; start the lander or materialize an asset first")
            with founding(places.home, "lake") as mark:
                _found(root, mark)
        lake = cls(root, read_only=read_only)
        try:
            lake._migrated()
        except BaseException:
            lake.close()
            raise
        return lake

    @property
    def data(self) -> Path:
        """Directory of the data files, one folder a table below ``main``."""
        return data_of(self.root)

    def write(self, work: Callable[[Connection], T], *, message: str = "") -> T:
        """Return what ``work`` returns, having committed all it wrote or, when it raises, nothing.

        Parameters
        ----------
        work
            Runs between BEGIN and COMMIT, alone among all writers; repeated on a conflict, so it must read afresh
            whatever it depends on, in each call. Keep it short: it holds up every other writer.
        message : kept with the snapshot, such as the id of the run that wrote

        Raises
        ------
        Unavailable
            When the lake stays busy for a minute.
        BadState
            When the disk is full or the statement is refused.
        """

        def attempt() -> T:
            with exclusive(self.root / "writer.lock", WAIT_S):
                return self._transaction(work, message)

        return patiently(attempt, self.root, WAIT_S, self._reconnect)

    def query(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pa.Table:
        """Return the whole result of one SELECT, of one snapshot.

        Raises
        ------
        Unavailable, BadState
            As :meth:`write`.
        """

        def attempt() -> pa.Table:
            return self._connection.execute(sql, parameters).to_arrow_table()

        return patiently(attempt, self.root, WAIT_S, self._reconnect)

    def snapshot(self) -> int:
        """Return the number of the newest snapshot: what a reader sees now."""
        return int(self.query("SELECT id FROM ducklake_current_snapshot('lake')")["id"][0].as_py())

    def close(self) -> None:
        """Close the connection; the lake itself is on disk after each write."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> Connection:
        mode: Mode = "read" if self.read_only else "write"
        return patiently(lambda: connect(catalog_of(self.root), data_of(self.root), mode), self.root, WAIT_S)

    def _reconnect(self) -> None:
        self._connection.close()
        self._connection = self._connected()

    def _migrated(self) -> None:
        missing = patiently(lambda: schema.pending(self._connection), self.root, WAIT_S, self._reconnect)
        if missing and self.read_only:
            raise Unavailable(f"the lake in {self.root} lacks {missing[0].name}; start the lander, which migrates it")
        if missing:
            self.write(schema.migrate, message="migrate")

    def _transaction(self, work: Callable[[Connection], T], message: str) -> T:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            result = work(connection)
            if message:
                extra = json.dumps({"run_id": message})
                connection.execute("CALL lake.set_commit_message('tidemill', ?, extra_info => ?)", [message, extra])
            connection.execute("COMMIT")
        except BaseException:
            # After a failed commit, or on a full disk, there may be no transaction left to roll back.
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise
        return result


def _found(root: Path, mark: Mark | None) -> None:
    """Create the lake under another name and rename it: nobody ever attaches to a half-made catalog."""
    data_of(root).mkdir(parents=True, exist_ok=True)
    if mark is not None:
        mark_directory(data_of(root), mark)
    with exclusive(root / "writer.lock", WAIT_S):
        if catalog_of(root).exists():
            return
        for leftover in root.glob("founding.sqlite*"):
            leftover.unlink()
        new = root / "founding.sqlite"
        connection = patiently(lambda: connect(new, data_of(root), "create"), root, WAIT_S)
        try:
            connection.execute("BEGIN")
            schema.migrate(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()  # the last connection: SQLite folds its log into the file
        if mark is not None:
            mark_database(f"sqlite:///{new}", "lake", mark)
        new.rename(catalog_of(root))
