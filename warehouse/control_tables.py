"""The tables of the control database."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 3

NUMBERS = "numbers"
"""The counter of the newest version number that was given before this database began again; absent where it did not."""

metadata = sa.MetaData()

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("line", sa.String(128), primary_key=True),
    sa.Column("owner", sa.String(128), nullable=False),  # empty when released
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # the database's clock, unix seconds
)

heartbeats = sa.Table(
    "heartbeats",
    metadata,
    sa.Column("service", sa.String(64), primary_key=True),
    sa.Column("instance", sa.String(128), primary_key=True),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("position", sa.JSON, nullable=False),
    sa.Column("progress", sa.BigInteger, nullable=False),
    sa.Column("progressed_at", sa.Double, nullable=False),
    sa.Column("lag", sa.BigInteger),
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Column("beat_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),  # increasing in commit order, see registry
    sa.Column("line", sa.String(128), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("parent", sa.BigInteger),
    sa.Column("watermark", sa.BigInteger, nullable=False),
    sa.Column("n_learned", sa.BigInteger, nullable=False),
    sa.Column("snapshot", sa.BigInteger),
    sa.Column("begins", sa.BigInteger, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("offsets", sa.JSON, nullable=False),
    sa.Column("logs", sa.JSON, nullable=False),
    sa.Column("without", sa.JSON, nullable=False),
    sa.Column("champions", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(128), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("path", sa.String(512), nullable=False),  # below the registry's root, so that both can move
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("line", "number"),
    sa.Index("versions_by_digest", "line", "digest"),
    sa.Index("versions_by_age", "line", "created_at"),
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("line", sa.String(128), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.BigInteger, nullable=False),  # increasing in commit order, as of versions
    sa.Column("reason", sa.String(1024), nullable=False),
    sa.Column("refused_by", sa.String(256), nullable=False),
    sa.Column("refused_at", sa.Double, nullable=False),
    sa.Index("refusals_by_id", "id"),
)

roles = sa.Table(
    "roles",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),  # increasing in commit order
    sa.Column("instrument", sa.String(128), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("champion", sa.String(128), nullable=False),  # a line
    sa.Column("challenger", sa.String(128)),  # a line
    sa.Column("held", sa.BigInteger),  # number of a version
    sa.Column("reason", sa.String(1024), nullable=False),
    sa.Column("decided_at", sa.Double, nullable=False),
    sa.Index("roles_by_instrument", "instrument", "id"),
)

pins = sa.Table(
    "pinned_snapshots",
    metadata,
    sa.Column("holder", sa.String(128), primary_key=True),
    sa.Column("snapshot", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("until", sa.Double),  # the database's clock, unix seconds; null = for good
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("service", sa.String(64), primary_key=True),
    sa.Column("reason", sa.String(64), primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
)
