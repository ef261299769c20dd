"""Heartbeats at rest: what each service last said of itself."""

from __future__ import annotations

from dataclasses import asdict

import sqlalchemy as sa

from domain.health import Beat
from warehouse.control import Control, upsert
from warehouse.control_tables import heartbeats


class Heartbeats:
    """The heartbeats of a control database, one row an instance of a service."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def beat(self, beat: Beat) -> bool:
        """Overwrite the instance's row; return whether that succeeded.

        A beat is dropped rather than waited for: when the database is locked for more than 250 ms or out of reach,
        the next beat comes soon, and the service's own work must not stop for it. Call it from a thread of its own.
        """
        values = asdict(beat)
        key = {name: values.pop(name) for name in ("service", "instance")}
        return self._control.attempt(lambda connection: upsert(connection, heartbeats, key, values))

    def beats(self) -> list[Beat]:
        """Return all instances' newest beats, by service and instance.

        Raises
        ------
        Unavailable
            When the database cannot be reached.
        """
        order = (heartbeats.c.service, heartbeats.c.instance)
        rows = self._control.read(lambda c: c.execute(sa.select(heartbeats).order_by(*order)).mappings().all())
        return [Beat(**row) for row in rows]

    def forget(self, before: float) -> int:
        """Drop instances that have not beaten since ``before`` (unix seconds); return how many.

        The last beat of a service stays: after a long pause it alone says how far the market was.
        """

        def work(connection: sa.Connection) -> int:
            c = heartbeats.c
            newest = sa.select(c.service, sa.func.max(c.beat_at).label("beat_at")).group_by(c.service).subquery()
            last = sa.exists().where(newest.c.service == c.service, newest.c.beat_at == c.beat_at)
            return int(connection.execute(sa.delete(heartbeats).where(c.beat_at < before, ~last)).rowcount)

        return self._control.write(work)
