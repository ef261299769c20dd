"""Retention in the registry: old versions go, row first and file second, and with them what killed processes left.

What may go is decided in ``domain.retention``; here is what must not: the newest versions, those that a line begins
with, held ones, those that a service says it serves, and those that hold a pin.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import sqlalchemy as sa

from domain.lines import instrument_of
from domain.retention import HOUR_S, Age, expired
from warehouse.control import Control, database_now
from warehouse.control_tables import heartbeats, pins, refusals, versions
from warehouse.leases import Lease, guard
from warehouse.registry import folder_of
from warehouse.roles import held_numbers

FALLBACKS = 10
"""Newest versions that stay at any age: when the newest does not load after a long pause, one of these does."""

AT_ONCE = 200
"""Versions removed in one transaction: three minutes' worth, some 20 ms of work during which nothing is published."""

IN_FLIGHT_S = 3_600.0
"""Age at which a temporary file is no longer on its way to a name."""


PRUNE_S, SWEEP_S = 60.0, 3_600.0
"""Between two looks for versions that may go, and for files that killed processes left."""


class Retention:
    """A trainer's upkeep of its lines: a little at a time, and nothing of it while it starts."""

    def __init__(self, control: Control, root: Path) -> None:
        self._control, self._root = control, root
        self._pruned: dict[str, float] = {}
        self._swept: dict[str, float] = {}

    def turn(self, lease: Lease, now: float) -> None:
        """Prune the lease's line when a minute has passed since the last time, and sweep it when an hour has.

        Parameters
        ----------
        now : seconds, of a clock that never goes back
        """
        line = lease.line
        if now - self._pruned.setdefault(line, now) < PRUNE_S:
            return
        self._pruned[line] = now
        prune(self._control, self._root, line)
        if line not in self._swept or now - self._swept[line] >= SWEEP_S:
            self._swept[line] = now
            sweep(self._control, self._root, lease)


def holder_of(line: str, number: int) -> str:
    """Return the name under which a version holds a pin (``maintenance.pin``): while it does, the version stays."""
    return f"version/{line}/{number}"


def lines(control: Control) -> list[str]:
    """Return all lines that have versions, those of instruments that are no longer configured too."""
    return sorted(control.read(lambda c: c.execute(sa.select(versions.c.line).distinct()).scalars().all()))


def prune(control: Control, root: Path, line: str) -> list[int]:
    """Remove up to ``AT_ONCE`` versions of a line that need not stay, oldest first; return their numbers.

    Notes
    -----
    It reads only what is older than an hour, so that a call in steady state costs what has aged since the last one.
    The row goes first: a crash in between leaves a file without a row, for ``sweep``, never a row without its file.
    """

    def work(connection: sa.Connection) -> list[tuple[int, str]]:
        now = float(connection.execute(sa.select(database_now())).scalar_one())
        columns = (versions.c.number, versions.c.created_at, versions.c.path, versions.c.kind)
        old = sa.and_(versions.c.line == line, versions.c.created_at < now - HOUR_S)
        rows = {row.number: row for row in connection.execute(sa.select(*columns).where(old))}
        ages = [Age(number, row.created_at) for number, row in rows.items()]
        first_of_lines = {number for number, row in rows.items() if row.kind != "update"}
        chosen = sorted(expired(ages, first_of_lines | _protected(connection, line), now))[:AT_ONCE]
        # Locked, and asked once more what protects them: from here on no decision can hold one of them.
        of_line = sa.and_(versions.c.line == line, versions.c.number.in_(chosen))
        connection.execute(sa.select(versions.c.number).where(of_line).with_for_update()).all()
        gone = sorted(set(chosen) - _protected(connection, line))
        for table in (refusals, versions):
            connection.execute(sa.delete(table).where(table.c.line == line, table.c.number.in_(gone)))
        return [(number, rows[number].path) for number in gone]

    gone = control.write(work)
    for _number, path in gone:
        (root / path).unlink(missing_ok=True)
    return [number for number, _path in gone]


def sweep(control: Control, root: Path, lease: Lease) -> list[Path]:
    """Remove what killed processes left in the line's directory; return the files.

    Raises
    ------
    LeaseLost
        When the lease is not the line's newest: nothing is removed.

    Notes
    -----
    It looks while it holds the lease's lock. What has no row by then gets none: a publication of this lease is over
    when its holder calls this, one of an older lease is refused, and a newer lease's files come after the look. It
    lists the whole directory, so call it hourly. A temporary file may be on its way, and stays for an hour.
    """
    folder = folder_of(root, lease.line)

    def work(connection: sa.Connection) -> list[Path]:
        guard(connection, lease)
        paths = connection.execute(sa.select(versions.c.path).where(versions.c.line == lease.line)).scalars()
        known = {root / path for path in paths}
        return [path for path in folder.iterdir() if path not in known and not _in_flight(path)]

    orphans = sorted(control.write(work)) if folder.is_dir() else []
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans


def _protected(connection: sa.Connection, line: str) -> set[int]:
    of_line = versions.c.line == line
    newest = sa.select(versions.c.number).where(of_line).order_by(versions.c.number.desc()).limit(FALLBACKS)
    protected = set(connection.execute(newest).scalars()) | held_numbers(connection, instrument_of(line))
    for detail in connection.execute(sa.select(heartbeats.c.detail)).scalars():
        served = detail.get("version")
        if isinstance(served, dict) and isinstance(served.get(instrument_of(line)), int):
            protected.add(served[instrument_of(line)])
    prefix = holder_of(line, 0).removesuffix("0")
    held = sa.and_(sa.or_(pins.c.until.is_(None), pins.c.until > database_now()), pins.c.holder.startswith(prefix))
    for holder in connection.execute(sa.select(pins.c.holder).where(held)).scalars():
        with contextlib.suppress(ValueError):
            protected.add(int(holder.removeprefix(prefix)))
    return protected


def _in_flight(path: Path) -> bool:
    return path.name.startswith(".") and time.time() - path.stat().st_mtime < IN_FLIGHT_S
