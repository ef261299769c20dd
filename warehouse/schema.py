"""The lake's tables as numbered SQL migrations: each is applied once, and one that was changed later is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import duckdb

from domain.errors import BadState


@dataclass(frozen=True)
class Migration:
    """One SQL file of ``warehouse/migrations``, applied in the order of its number."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Digest of the text, kept with the lake."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return all migrations that this release knows, in order."""
    folder = resources.files("warehouse") / "migrations"
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return [Migration(int(name[:4]), name, file.read_text(encoding="utf-8")) for name, file in files]


def pending(connection: duckdb.DuckDBPyConnection) -> list[Migration]:
    """Return the migrations that this lake has not seen.

    Raises
    ------
    BadState
        When an applied migration was changed, or the lake knows one that this release does not.
    """
    known = {m.version: m for m in migrations()}
    applied = dict(connection.execute("SELECT version, sha256 FROM schema_migrations").fetchall())
    for version, sha256 in sorted(applied.items()):
        if version not in known:
            raise BadState(f"the lake has migration {version}, which this release does not know; run a newer tidemill")
        if known[version].sha256 != sha256:
            name = known[version].name
            raise BadState(f"{name} was changed after this lake applied it; restore it and add a new migration instead")
    return [m for version, m in known.items() if version not in applied]


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Apply what is pending, inside the caller's transaction."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        "(version INTEGER NOT NULL, sha256 VARCHAR NOT NULL, applied_at TIMESTAMP WITH TIME ZONE NOT NULL)"
    )
    for migration in pending(connection):
        connection.execute(migration.sql)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, now())", [migration.version, migration.sha256])
