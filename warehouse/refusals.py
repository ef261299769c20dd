"""Refusals at rest: which versions were not loaded, by whom and why, until one of them loads after all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from warehouse.control import Control, database_now, next_id
from warehouse.control_tables import refusals, versions


@dataclass(frozen=True)
class Refusal:
    """A version that was not loaded.

    Attributes
    ----------
    id : grows with each refusal on any line, in commit order: a cursor
    refused_by : the first service that refused it
    refused_at : when that was, unix seconds, the database's clock
    """

    id: int
    line: str
    number: int
    reason: str
    refused_by: str
    refused_at: float


class Refusals:
    """The refusals in a control database."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def note(self, line: str, reasons: Mapping[int, str], by: str) -> None:
        """Record why versions of a line were refused; what is known of one already stays as it is.

        Parameters
        ----------
        reasons : number -> why; one that retention has removed in the meantime is left out
        """

        def work(connection: sa.Connection) -> None:
            known = set(connection.execute(sa.select(refusals.c.number).where(refusals.c.line == line)).scalars())
            for number in sorted(reasons.keys() - known):
                exists = sa.select(versions.c.number).where(versions.c.line == line, versions.c.number == number)
                if connection.execute(exists).one_or_none() is None:
                    continue
                row = {"id": next_id(connection, "refusals"), "refused_by": by, "refused_at": database_now()}
                said = {"line": line, "number": number, "reason": reasons[number][:1024]}
                connection.execute(sa.insert(refusals).values(**row, **said))

        self._control.write(work)

    def lift(self, line: str, number: int) -> None:
        """Forget that a version was refused, because it has loaded."""
        same = sa.and_(refusals.c.line == line, refusals.c.number == number)
        if self._control.read(lambda c: c.execute(sa.select(refusals.c.id).where(same)).one_or_none()) is not None:
            self._control.write(lambda c: c.execute(sa.delete(refusals).where(same)))

    def since(self, cursor: int, limit: int = 1_000) -> list[Refusal]:
        """Return up to ``limit`` refusals of all lines with an id above the cursor, oldest first."""
        query = sa.select(refusals).where(refusals.c.id > cursor).order_by(refusals.c.id).limit(limit)
        return [Refusal(**row) for row in self._control.read(lambda c: c.execute(query).mappings().all())]

    def newest(self, limit: int) -> list[Refusal]:
        """Return up to ``limit`` refusals, newest first."""
        query = sa.select(refusals).order_by(refusals.c.id.desc()).limit(limit)
        return [Refusal(**row) for row in self._control.read(lambda c: c.execute(query).mappings().all())]
