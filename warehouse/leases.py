"""Leases: at most one trainer a line may publish, and a newer holder's epoch fences every older one."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from domain.errors import LeaseLost, Unavailable
from warehouse.control import Control, database_now
from warehouse.control_tables import leases

LONGEST_S = 60.0
"""The longest a lease lasts without being renewed, seconds."""


@dataclass(frozen=True)
class Lease:
    """The right to publish on a line, for as long as no newer epoch exists."""

    line: str
    owner: str
    epoch: int


class Leases:
    """The leases of a control database, all timed by the database's clock."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def acquire(self, line: str, owner: str, ttl_s: float) -> Lease:
        """Take the lease of a line when it is free, expired or the owner's own; its epoch is one more than the last.

        Parameters
        ----------
        owner : names one instance of a trainer; taking one's own lease again fences one's former self
        ttl_s : how long it lasts without being renewed, seconds, > 0 and <= ``LONGEST_S``

        Raises
        ------
        Unavailable
            When another holds it: wait and try again.
        """

        def work(connection: sa.Connection) -> Lease | str:
            now = connection.execute(sa.select(database_now())).scalar_one()
            row = connection.execute(sa.select(leases).where(leases.c.line == line).with_for_update()).one_or_none()
            if row is None:
                connection.execute(sa.insert(leases).values(line=line, owner=owner, epoch=1, expires_at=now + ttl_s))
                return Lease(line, owner, 1)
            if row.owner not in {"", owner} and row.expires_at > now:
                if row.expires_at > now + LONGEST_S:
                    # The database's clock was set back: a holder that lives renews soon, one that died must lapse.
                    connection.execute(sa.update(leases).where(leases.c.line == line).values(expires_at=now + ttl_s))
                return (
                    f"the lease of {line} is held by {row.owner} for another {row.expires_at - now:.1f} s; wait for it"
                )
            taken = {"owner": owner, "epoch": row.epoch + 1, "expires_at": now + ttl_s}
            connection.execute(sa.update(leases).where(leases.c.line == line).values(**taken))
            return Lease(line, owner, row.epoch + 1)

        outcome = self._control.write(work)
        if isinstance(outcome, str):
            raise Unavailable(outcome)
        return outcome

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Let the lease last ``ttl_s`` seconds from now, also when it had expired but nobody took it.

        Raises
        ------
        LeaseLost
            When a newer epoch exists, or it was released.
        """
        if not self._update(lease, expires_at=database_now() + ttl_s):
            raise LeaseLost(_lost(lease))

    def release(self, lease: Lease) -> None:
        """Give the lease back; does nothing when it was lost already."""
        self._update(lease, owner="", expires_at=0.0)

    def _update(self, lease: Lease, **values: object) -> bool:
        held = held_by(lease)
        return bool(self._control.write(lambda c: c.execute(sa.update(leases).where(held).values(**values)).rowcount))


def held_by(lease: Lease) -> sa.ColumnElement[bool]:
    """Return the condition that this very lease is the line's newest."""
    return sa.and_(leases.c.line == lease.line, leases.c.owner == lease.owner, leases.c.epoch == lease.epoch)


def guard(connection: sa.Connection, lease: Lease) -> None:
    """Refuse to go on in this transaction unless the lease is the line's newest, and keep it so until the commit.

    Raises
    ------
    LeaseLost
        When it is not.
    """
    if connection.execute(sa.select(leases.c.epoch).where(held_by(lease)).with_for_update()).one_or_none() is None:
        raise LeaseLost(_lost(lease))


def _lost(lease: Lease) -> str:
    return f"{lease.owner} lost the lease of {lease.line} (epoch {lease.epoch}) to another; this trainer must stop"
