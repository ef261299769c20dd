"""What a home holds at rest, read back and verified: its versions, the lake's rows, and how far both have read."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from domain.config import Places
from domain.errors import ArtifactRefused, BadState
from warehouse.control import Control
from warehouse.control_tables import versions
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.landing import all_landed
from warehouse.moment import CATALOG, CONTROL, fault_of
from warehouse.registry import Registry
from warehouse.tables import SCHEMAS
from warehouse.versions import Version


class Newest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line's newest version that loads.

    Attributes
    ----------
    watermark : ns
    offsets, logs : how far it has read, by topic/partition, and the identities of these logs, by topic
    """

    number: int
    watermark: int
    n_learned: int
    digest: str
    offsets: dict[str, int]
    logs: dict[str, str]


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a home holds at rest.

    Attributes
    ----------
    versions : how many there are
    damaged : those whose artifact is missing or not the published one, in words
    lines : by name
    rows : by table of the lake
    landed : topic/partition -> next offset to land, and the identity of its log
    """

    versions: int
    damaged: list[str]
    lines: dict[str, Newest]
    rows: dict[str, int]
    landed: dict[str, tuple[int, str]]


def inventory_of(places: Places) -> Inventory:
    """Read a home back: every signature verified, the newest versions loaded, every row counted.

    Raises
    ------
    BadState
        When a database is not whole, or no version of a line loads.

    Notes
    -----
    Of a control database that is not in the home nothing is read.
    """
    for name in (CONTROL, CATALOG):
        path = places.home / name
        if path.exists() and (fault := fault_of(path)):
            raise BadState(f"{path} is damaged ({fault}); use another backup")
    count, damaged, lines = 0, list[str](), dict[str, Newest]()
    if not places.control_url:  # elsewhere it has moved on since
        with Control.of(places) as control:
            count, damaged, lines = _versions(control, places)
    rows: dict[str, int] = {}
    landed: dict[str, tuple[int, str]] = {}
    if (places.lake / "catalog.sqlite").exists():
        with Lake.open(places, read_only=True) as lake:
            # A column of each row is read, not only what the catalog says of them.
            for table in SCHEMAS:
                counted = lake.query(f"SELECT count(instrument) AS n FROM {table}")  # noqa: S608 - a name of SCHEMAS
                rows[table] = int(counted["n"][0].as_py())
            landed = {f"{t}/{p}": (mark.next_offset, mark.log) for (t, p), mark in sorted(all_landed(lake).items())}
    return Inventory(count, damaged, lines, rows, landed)


def _versions(control: Control, places: Places) -> tuple[int, list[str], dict[str, Newest]]:
    query = sa.select(versions.c.line, versions.c.number).order_by(versions.c.line, versions.c.number.desc())
    rows = control.read(lambda c: c.execute(query).all())
    if not rows:
        return 0, [], {}
    registry = Registry(control, places.models, model_key(places))
    damaged: list[str] = []
    lines: dict[str, Newest] = {}
    cursor = 0
    while page := registry.since(cursor, 1_000):
        cursor = page[-1].id
        for version in page:
            try:
                registry.manifest(version)
            except ArtifactRefused:
                damaged.append(f"{version.line} v{version.number}")
    for line in dict.fromkeys(row.line for row in rows):
        lines[line] = _newest(registry, line)
    return len(rows), sorted(damaged), lines


def _newest(registry: Registry, line: str) -> Newest:
    version: Version | None = registry.newest(line)
    said = ""
    while version is not None:
        try:
            registry.open(version)
        except ArtifactRefused as error:
            said = said or str(error)
            version = registry.before(version)
            continue
        return Newest(
            version.number, version.watermark, version.n_learned, version.digest,
            dict(version.offsets), dict(version.logs),
        )  # fmt: skip
    raise BadState(f"no version of {line} loads, and nothing could go on from here; the newest: {said}")
