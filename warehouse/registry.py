"""The registry: every model version as an immutable file and a row, published only under its line's lease."""

from __future__ import annotations

import errno
import hashlib
import hmac
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from domain.errors import ArtifactRefused, BadState, Unavailable
from domain.lines import instrument_of
from warehouse.control import Control, database_now, next_id
from warehouse.control_tables import NUMBERS, counters, refusals, versions
from warehouse.files import settle, stage
from warehouse.leases import Lease, guard
from warehouse.refusals import Refusals
from warehouse.roles import of_instrument
from warehouse.versions import Version, VersionInfo

if TYPE_CHECKING:
    from domain.checkpoint import Checkpoint  # sensors read rows only, and must not wait for learners to be imported


class Registry:
    """The versions in a control database, with their artifacts below a directory.

    Parameters
    ----------
    key : signs and verifies artifacts; who only lists versions needs none
    """

    def __init__(self, control: Control, root: Path, key: bytes | None = None) -> None:
        self._control = control
        self._root = root
        self._key = key
        self.refusals = Refusals(control)

    def seal(self, checkpoint: Checkpoint) -> bytes:
        """Return the checkpoint as a signed artifact.

        Raises
        ------
        BadState
            When it is not finite, or this registry has no key.
        """
        return checkpoint.to_bytes(self._signing_key())

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
        In this order: the artifact, whole and durable under a name that no other publication has; then, in a
        transaction that does no more than look and insert, the lease is guarded and the row committed. So a row
        without its artifact cannot be, no process can overwrite what another has published, and one that is stopped
        while it waits for its disk holds up no other writer. What fails leaves no file; a death in between leaves one
        without a row, for ``retention.sweep``. Published again after a crash (same parent, digest and watermark), a
        version is the one that exists.
        """
        if lease.line != line:
            raise BadState(f"a lease of {lease.line} cannot publish on {line}; acquire the line's own")
        path = folder_of(self._root, line) / f"{info.n_learned}-{lease.epoch}-{uuid.uuid4().hex}.safetensors"
        staged, inserted = stage(path, payload), False
        file = {
            "sha256": hashlib.sha256(payload).hexdigest(),
            "size": len(payload),
            "path": str(path.relative_to(self._root)),
        }

        def work(connection: sa.Connection) -> Version:
            nonlocal inserted
            inserted = False
            guard(connection, lease)
            if published := self._published(connection, line, info):
                return published
            version = self._insert(connection, line, info, file)
            inserted = True
            return version

        try:
            settle(staged, path)
            return self._control.write(work)
        finally:
            staged.unlink(missing_ok=True)
            if not inserted:  # a commit that failed may be found to be one after a crash: then its file stays
                path.unlink(missing_ok=True)

    def _published(self, connection: sa.Connection, line: str, info: VersionInfo) -> Version | None:
        """Return the version that says the same already, None when there is none, or none that loads."""
        same = sa.and_(
            versions.c.line == line,
            versions.c.digest == info.digest,
            versions.c.watermark == info.watermark,
            versions.c.parent.is_not_distinct_from(info.parent),
        )
        # One that was refused, or is damaged, is not what the trainer says: it learned all of that once more because
        # of it, and must get a number behind it.
        refused = sa.select(refusals.c.number).where(refusals.c.line == line)
        again = sa.select(versions).where(same, versions.c.number.not_in(refused)).order_by(versions.c.number.desc())
        found = (self._version(row) for row in connection.execute(again).mappings())
        return next((version for version in found if self._is_whole(version)), None)

    def _insert(self, connection: sa.Connection, line: str, info: VersionInfo, file: Mapping[str, object]) -> Version:
        row_id = next_id(connection, "versions")
        # One count an instrument, not one a line: a number says which version served, whichever line it is of.
        newest = sa.select(sa.func.max(versions.c.number)).where(of_instrument(versions.c.line, instrument_of(line)))
        before = sa.select(counters.c.value).where(counters.c.name == NUMBERS)
        number = 1 + (connection.execute(newest).scalar_one() or connection.execute(before).scalar_one_or_none() or 0)
        row = {
            "id": row_id,
            "line": line,
            "number": number,
            "created_at": connection.execute(sa.select(database_now())).scalar_one(),
            **file,
        }
        said = {f.name: getattr(info, f.name) for f in fields(VersionInfo)}
        connection.execute(sa.insert(versions).values(**said, **row))
        return self._version(connection.execute(sa.select(versions).where(versions.c.id == row_id)).mappings().one())

    def newest(self, line: str) -> Version | None:
        """Return the line's newest version, None when it has none."""
        return self._one(sa.select(versions).where(versions.c.number == _newest_number(line).scalar_subquery()), line)

    def first(self, line: str) -> Version | None:
        """Return the line's oldest version, None when it has none: not number 1 where versions were begun again."""
        of = sa.select(versions).where(versions.c.line == line).order_by(versions.c.number).limit(1)
        return self._first(of)

    def get(self, line: str, number: int) -> Version | None:
        """Return the line's version of this number, None when there is none."""
        return self._one(sa.select(versions).where(versions.c.number == number), line)

    def find(self, instrument: str, number: int) -> Version | None:
        """Return the version of this number, whichever line of the instrument it is of, None when there is none."""
        of = of_instrument(versions.c.line, instrument)
        return self._first(sa.select(versions).where(of, versions.c.number == number))

    def before_time(self, line: str, watermark: int) -> Version | None:
        """Return the line's newest version that has followed nothing after this time (ns), None when there is none."""
        older = sa.select(versions).where(versions.c.watermark <= watermark).order_by(versions.c.number.desc()).limit(1)
        return self._one(older, line)

    def before(self, version: Version) -> Version | None:
        """Return the newest version older than this one, None when there is none."""
        older = _newest_number(version.line).where(versions.c.number < version.number).scalar_subquery()
        return self._one(sa.select(versions).where(versions.c.number == older), version.line)

    def open(self, version: Version) -> Checkpoint:
        """Return what was published, verified in every way: the row's digest, the signature, what both say of it.

        Raises
        ------
        ArtifactRefused
            When the file is missing, or is not the version that its row describes, or does not load here.
        """
        payload = self.load(version)
        self._described(version, payload)
        from domain.checkpoint import Checkpoint

        return Checkpoint.from_bytes(payload, self._signing_key())

    def manifest(self, version: Version) -> dict[str, Any]:
        """Return the verified manifest of a version; its state is not looked at.

        Raises
        ------
        ArtifactRefused
            When the file is missing, or is not the version that its row describes.
        """
        return self._described(version, self.load(version))

    def load(self, version: Version) -> bytes:
        """Return the artifact, byte for byte as it was published.

        Raises
        ------
        ArtifactRefused
            When the file is missing or is not what was published.
        Unavailable
            When this process can open no file at all: that says nothing of the version.
        """
        try:
            if version.path.exists() and not version.path.is_file():  # opening a pipe would wait for a writer
                raise ArtifactRefused(
                    f"{version.line} version {version.number}: {version.path} is not a file; use another version"
                )
            with version.path.open("rb") as file:
                payload = file.read(version.size + 1)  # whatever lies there now, no more memory than was published
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise Unavailable(f"{version.path}: {error.strerror}; the process is short of it") from error
            raise ArtifactRefused(f"{version.line} version {version.number}: {error}; use another version") from error
        if not hmac.compare_digest(hashlib.sha256(payload).hexdigest(), version.sha256):
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

    def _described(self, version: Version, payload: bytes) -> dict[str, Any]:
        """Return the artifact's manifest if it says of itself what the row says of it.

        The row's sha256 alone would let an older file of the line, or another line's, be put in place with its digest.
        """
        from domain.checkpoint import read_manifest

        manifest = read_manifest(payload, self._signing_key())
        said = {"line": version.line, **{f.name: getattr(version, f.name) for f in fields(VersionInfo)}}
        differ = [name for name, value in said.items() if name != "metrics" and manifest.get(name) != value]
        if differ:
            raise ArtifactRefused(
                f"{version.line} version {version.number}: {version.path} is of another version "
                f"({', '.join(differ)} differ); restore the file or use another version"
            )
        return manifest

    def _is_whole(self, version: Version) -> bool:
        try:
            self.load(version)
        except ArtifactRefused:
            return False
        return True

    def _signing_key(self) -> bytes:
        if self._key is None:
            raise BadState("this registry was opened without the key of its artifacts; it can only list versions")
        return self._key

    def _one(self, query: sa.Select[Any], line: str) -> Version | None:
        return self._first(query.where(versions.c.line == line))

    def _first(self, query: sa.Select[Any]) -> Version | None:
        row = self._control.read(lambda c: c.execute(query).mappings().one_or_none())
        return None if row is None else self._version(row)

    def _version(self, row: sa.RowMapping) -> Version:
        return Version(**{**row, "path": self._root / row["path"]})


def folder_of(root: Path, line: str) -> Path:
    """Return the directory of a line's artifacts."""
    return root / line.replace(":", "__")


def _newest_number(line: str) -> sa.Select[int]:
    return sa.select(versions.c.number).where(versions.c.line == line).order_by(versions.c.number.desc()).limit(1)
