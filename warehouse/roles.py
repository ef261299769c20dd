"""Roles: which of an instrument's lines serves, which one challenges it, and every decision that was taken about it.

Decisions are appended, never changed: the newest one of an instrument says how things are, all of them how they came
to be so. Where nobody has decided anything the first line serves its newest version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from domain.errors import BadState, UsageError
from domain.lines import MARK, instrument_of, line_of
from warehouse.control import Control, database_now, next_id
from warehouse.control_tables import roles, versions

Change = dict[str, str | int | None]

Action = Literal["begin", "challenge", "promote", "retire", "hold", "release"]


@dataclass(frozen=True)
class Cast:
    """Who plays which part for an instrument, since which decision.

    Attributes
    ----------
    id : grows with each decision about any instrument, in commit order: a cursor; 0 before the first
    action : what was decided; ``begin`` before anything was
    champion : the line that serves
    challenger : the line that learns beside it, None when there is none
    held : number of the version that serves whatever is published, None when the champion's newest one does
    reason : why, in a person's words
    decided_at : unix seconds, the database's clock
    """

    id: int
    instrument: str
    action: Action
    champion: str
    challenger: str | None
    held: int | None
    reason: str
    decided_at: float

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that are trained."""
        return (self.champion,) if self.challenger is None else (self.champion, self.challenger)


class Roles:
    """The decisions in a control database."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def of(self, instrument: str) -> Cast:
        """Return how things are for an instrument."""
        return self._control.read(lambda c: _newest(c, instrument))

    def all(self, instruments: Iterable[str]) -> dict[str, Cast]:
        """Return how things are for each of these instruments."""

        def work(connection: sa.Connection) -> dict[str, Cast]:
            newest = sa.select(sa.func.max(roles.c.id)).group_by(roles.c.instrument)
            rows = connection.execute(sa.select(roles).where(roles.c.id.in_(newest))).mappings()
            return {row["instrument"]: Cast(**row) for row in rows}

        decided = self._control.read(work)
        return {name: decided.get(name) or _undecided(name) for name in instruments}

    def since(self, cursor: int, limit: int = 100) -> list[Cast]:
        """Return up to ``limit`` decisions about all instruments with an id above the cursor, oldest first."""
        query = sa.select(roles).where(roles.c.id > cursor).order_by(roles.c.id).limit(limit)
        return [Cast(**row) for row in self._control.read(lambda c: c.execute(query).mappings().all())]

    def next_line(self, instrument: str) -> str:
        """Return a name that no line of the instrument bears yet."""

        def work(connection: sa.Connection) -> str:
            known = set(
                connection.execute(
                    sa.select(versions.c.line).where(of_instrument(versions.c.line, instrument))
                ).scalars()
            )
            for column in (roles.c.champion, roles.c.challenger):
                known |= set(connection.execute(sa.select(column).where(roles.c.instrument == instrument)).scalars())
            return next(name for n in range(2, len(known) + 3) if (name := line_of(instrument, n)) not in known)

        return self._control.read(work)

    def challenge(self, line: str, reason: str) -> Cast:
        """Let a line learn beside the champion; a former challenger retires.

        Raises
        ------
        BadState
            When the line has no version to begin with.
        UsageError
            When it is the champion.
        """

        def change(connection: sa.Connection, now: Cast) -> Change:
            if line == now.champion:
                raise UsageError(f"{line} is the champion; it cannot challenge itself")
            found = sa.select(versions.c.number).where(versions.c.line == line).limit(1)
            if connection.execute(found).one_or_none() is None:
                raise BadState(f"{line} has no version; publish one before it may learn")
            return {"challenger": line}

        return self._decide(instrument_of(line), "challenge", reason, change)

    def promote(self, instrument: str, reason: str) -> Cast:
        """Let challenger and champion change parts; what was held is held no longer.

        Raises
        ------
        UsageError
            When there is no challenger.
        """

        def change(_connection: sa.Connection, now: Cast) -> Change:
            if now.challenger is None:
                raise UsageError(f"{instrument} has no challenger; run job retrain or unlearn first")
            return {"champion": now.challenger, "challenger": now.champion, "held": None}

        return self._decide(instrument, "promote", reason, change)

    def retire(self, instrument: str, reason: str) -> Cast:
        """Let the challenger learn no more; its versions stay for as long as retention keeps them.

        Raises
        ------
        UsageError
            When there is no challenger.
        """

        def change(_connection: sa.Connection, now: Cast) -> Change:
            if now.challenger is None:
                raise UsageError(f"{instrument} has no challenger that could retire")
            return {"challenger": None}

        return self._decide(instrument, "retire", reason, change)

    def hold(self, instrument: str, number: int, reason: str) -> Cast:
        """Let this version of any of the instrument's lines serve until ``release`` or ``promote``; learning goes on.

        Raises
        ------
        UsageError
            When no version of this number is kept.
        """

        def change(connection: sa.Connection, _now: Cast) -> Change:
            # Locks the version against pruning: from the commit on, the decision protects it.
            same = sa.and_(of_instrument(versions.c.line, instrument), versions.c.number == number)
            if connection.execute(sa.select(versions.c.number).where(same).with_for_update()).one_or_none() is None:
                raise UsageError(f"{instrument} has no version {number}, or it is kept no longer; choose another")
            return {"held": number}

        return self._decide(instrument, "hold", reason, change)

    def release(self, instrument: str, reason: str) -> Cast:
        """Let the champion's newest version serve again.

        Raises
        ------
        UsageError
            When nothing is held.
        """

        def change(_connection: sa.Connection, now: Cast) -> Change:
            if now.held is None:
                raise UsageError(f"{instrument} serves the newest version already")
            return {"held": None}

        return self._decide(instrument, "release", reason, change)

    def _decide(
        self, instrument: str, action: Action, reason: str, change: Callable[[sa.Connection, Cast], Change]
    ) -> Cast:
        def work(connection: sa.Connection) -> Cast:
            # The id comes first: its counter stays locked until the commit, so decisions follow one another.
            row_id = next_id(connection, "roles")
            now = _newest(connection, instrument)
            values: Change = {"champion": now.champion, "challenger": now.challenger, "held": now.held}
            values |= change(connection, now)
            said = {"id": row_id, "instrument": instrument, "action": action, "reason": reason[:1024]}
            connection.execute(sa.insert(roles).values(**said, **values, decided_at=database_now()))
            return _newest(connection, instrument)

        return self._control.write(work)


def held_numbers(connection: sa.Connection, instrument: str) -> set[int]:
    """Return the versions that a decision keeps from being removed."""
    held = _newest(connection, instrument).held
    return set() if held is None else {held}


def of_instrument(line: sa.Column[str], instrument: str) -> sa.ColumnElement[bool]:
    """Return the condition that a line is one of the instrument's."""
    return sa.or_(line == instrument, line.startswith(f"{instrument}{MARK}", autoescape=True))


def _newest(connection: sa.Connection, instrument: str) -> Cast:
    query = sa.select(roles).where(roles.c.instrument == instrument).order_by(roles.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return _undecided(instrument) if row is None else Cast(**row)


def _undecided(instrument: str) -> Cast:
    return Cast(0, instrument, "begin", line_of(instrument, 1), None, None, "", 0.0)
