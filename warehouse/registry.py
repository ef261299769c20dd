"""The registry: every model version as an immutable file and a row, published only under its line's lease."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from domain.errors import ArtifactRefused, BadState
from warehouse.control import Control, aliases, counters, database_now, upsert, versions
from warehouse.files import settle, stage
from warehouse.leases import Lease, guard


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """What a trainer says of a version.

    Attributes
    ----------
    kind : ``initial`` was trained from history, ``update`` learned from the stream
    parent : number of the version it grew from
    watermark : availability time of the newest example learned, ns
    n_learned : examples learned in all
    snapshot : of the lake it was trained from
    offsets : topic/partition -> next offset to learn from
    digest : of the model's state
    metrics : for people and plots; what is not finite is stored as null
    """

    kind: Literal["initial", "update"]
    watermark: int
    n_learned: int
    digest: str
    parent: int | None = None
    snapshot: int | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Version(VersionInfo):
    """A published version.

    Attributes
    ----------
    id : grows with each publication on any line, in commit order: a cursor
    number : 1, 2, 3 ... on its line
    created_at : unix seconds, the database's clock
    sha256, size : of the artifact, bytes
    path : of the artifact
    """

    id: int
    line: str
    number: int
    created_at: float
    sha256: str
    size: int
    path: Path


class Registry:
    """The versions in a control database, with their artifacts below a directory."""

    def __init__(self, control: Control, root: Path) -> None:
        self._control = control
        self._root = root

    def publish(self, line: str, payload: bytes, info: VersionInfo, lease: Lease) -> Version:
        """Publish a version, or return the one that says the same when it was published before.

        Parameters
        ----------
        payload : the artifact, safetensors
        lease : of this line

        Raises
        ------
        LeaseLost
            When a newer epoch of the lease exists; nothing is published.
        BadState
            When the lease is of another line, or the database refuses.
        Unavailable
            When the database cannot be reached.

        Notes
        -----
        The artifact is on disk under its name before its row is committed, and both while the lease is locked: a row
        without its artifact cannot be, and an artifact without a row is replaced by the next publication. Published
        again after a crash (same parent, digest and watermark), a version is the one that exists.
        """
        if lease.line != line:
            raise BadState(f"a lease of {lease.line} cannot publish on {line}; acquire the line's own")
        staged = stage(self._path(line, 0), payload)
        try:
            return self._control.write(lambda connection: self._publish(connection, line, staged, payload, info, lease))
        finally:
            staged.unlink(missing_ok=True)

    def _publish(
        self, connection: sa.Connection, line: str, staged: Path, payload: bytes, info: VersionInfo, lease: Lease
    ) -> Version:
        guard(connection, lease)
        same = sa.and_(
            versions.c.line == line,
            versions.c.digest == info.digest,
            versions.c.watermark == info.watermark,
            versions.c.parent.is_not_distinct_from(info.parent),
        )
        again = (
            connection.execute(sa.select(versions).where(same).order_by(versions.c.number.desc())).mappings().first()
        )
        if again is not None:
            return self._version(again)
        # Ids are drawn from a row that stays locked until the commit, so that they are seen in the order of commits:
        # a reader with a cursor misses none.
        connection.execute(sa.update(counters).where(counters.c.name == "versions").values(value=counters.c.value + 1))
        number = 1 + (connection.execute(_newest_number(line)).scalar_one_or_none() or 0)
        path = self._path(line, number)
        row = {
            "id": connection.execute(sa.select(counters.c.value).where(counters.c.name == "versions")).scalar_one(),
            "line": line,
            "number": number,
            "created_at": connection.execute(sa.select(database_now())).scalar_one(),
            "sha256": hashlib.sha256(payload).hexdigest(),
            "size": len(payload),
            "path": str(path.relative_to(self._root)),
        }
        said = {f.name: getattr(info, f.name) for f in fields(VersionInfo)}
        connection.execute(sa.insert(versions).values(**said, **row))
        settle(staged, path)
        return self._version(connection.execute(sa.select(versions).where(versions.c.id == row["id"])).mappings().one())

    def newest(self, line: str) -> Version | None:
        """Return the line's newest version, None when it has none."""
        return self._one(sa.select(versions).where(versions.c.number == _newest_number(line).scalar_subquery()), line)

    def get(self, line: str, number: int) -> Version | None:
        """Return the line's version of this number, None when there is none."""
        return self._one(sa.select(versions).where(versions.c.number == number), line)

    def load(self, version: Version) -> bytes:
        """Return the artifact, byte for byte as it was published.

        Raises
        ------
        ArtifactRefused
            When the file is missing or is not what was published.
        """
        try:
            payload = version.path.read_bytes()
        except OSError as error:
            raise ArtifactRefused(f"{version.line} version {version.number}: {error}; use another version") from error
        if hashlib.sha256(payload).hexdigest() != version.sha256:
            raise ArtifactRefused(
                f"{version.line} version {version.number}: {version.path} is damaged (its sha256 is not the published "
                "one); use another version or restore the file"
            )
        return payload

    def since(self, cursor: int, limit: int = 100) -> list[Version]:
        """Return up to ``limit`` versions of all lines with an id above the cursor, oldest first."""
        query = sa.select(versions).where(versions.c.id > cursor).order_by(versions.c.id).limit(limit)
        return [self._version(row) for row in self._control.read(lambda c: c.execute(query).mappings().all())]

    def count(self, line: str) -> int:
        """Return how many versions the line has."""
        query = sa.select(sa.func.count()).select_from(versions).where(versions.c.line == line)
        return int(self._control.read(lambda c: c.execute(query).scalar_one()))

    def alias(self, line: str, name: str) -> int | None:
        """Return the number that an alias such as ``champion`` stands for, None when it is not set."""
        query = sa.select(aliases.c.number).where(aliases.c.line == line, aliases.c.alias == name)
        return self._control.read(lambda c: c.execute(query).scalar_one_or_none())

    def set_alias(self, line: str, name: str, number: int, *, expected: int | None) -> bool:
        """Point an alias at a version if it stands for ``expected`` now (None: is not set); return whether it did.

        Raises
        ------
        BadState
            When the line has no version of this number.
        """
        key = {"line": line, "alias": name}

        def work(connection: sa.Connection) -> bool:
            # Locks the version against pruning and, with it, the alias against another swap to or from it.
            wanted = sa.select(versions.c.number).where(versions.c.line == line, versions.c.number == number)
            if connection.execute(wanted.with_for_update()).one_or_none() is None:
                raise BadState(f"{line} has no version {number}; it cannot be called {name}")
            values = {"number": number, "updated_at": database_now()}
            if expected is None:
                held = sa.select(aliases.c.number).where(aliases.c.line == line, aliases.c.alias == name)
                if connection.execute(held).one_or_none() is not None:
                    return False
                upsert(connection, aliases, key, values)
                return True
            same = sa.and_(aliases.c.line == line, aliases.c.alias == name, aliases.c.number == expected)
            return bool(connection.execute(sa.update(aliases).where(same).values(**values)).rowcount)

        return self._control.write(work)

    def prune(self, line: str, keep_last: int) -> list[int]:
        """Remove old versions and their artifacts; return their numbers.

        Parameters
        ----------
        keep_last : how many of the newest stay, >= 1; initial versions and those with an alias always stay
        """
        named = sa.select(aliases.c.number).where(aliases.c.line == line)

        def work(connection: sa.Connection) -> list[tuple[int, str]]:
            newest = connection.execute(_newest_number(line).with_for_update()).scalar_one_or_none() or 0
            old = sa.and_(
                versions.c.line == line,
                versions.c.number <= newest - max(1, keep_last),
                versions.c.kind != "initial",
                versions.c.number.not_in(named),
            )
            gone = connection.execute(sa.select(versions.c.number, versions.c.path).where(old)).all()
            connection.execute(sa.delete(versions).where(old))
            return [(row.number, row.path) for row in gone]

        gone = self._control.write(work)
        for _number, path in gone:
            (self._root / path).unlink(missing_ok=True)
        return [number for number, _path in gone]

    def _one(self, query: sa.Select[Any], line: str) -> Version | None:
        row = self._control.read(lambda c: c.execute(query.where(versions.c.line == line)).mappings().one_or_none())
        return None if row is None else self._version(row)

    def _version(self, row: sa.RowMapping) -> Version:
        return Version(**{**row, "path": self._root / row["path"]})

    def _path(self, line: str, number: int) -> Path:
        return self._root / line.replace(":", "__") / f"{number}.safetensors"


def _newest_number(line: str) -> sa.Select[int]:
    return sa.select(versions.c.number).where(versions.c.line == line).order_by(versions.c.number.desc()).limit(1)
