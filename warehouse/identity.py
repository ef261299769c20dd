"""A home's identity: a random id, made when the home begins, and the record of the stores that were founded in it.

A store is founded once. Each carries the home's id and one of its own (``warehouse.marks``), so that one that is
missing, empty or of another home is refused rather than begun again in silence.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from domain.errors import BadState
from domain.fields import Frozen
from domain.stores import Store
from warehouse.files import exclusive, make_directory, write_atomic

WAIT_S = 60.0
"""How long another process may take to found a store, seconds."""


class Mark(NamedTuple):
    """What a store carries.

    Attributes
    ----------
    home : id of the home that it was founded in
    store : its own id; of the key its fingerprint
    """

    home: str
    store: str


class Founded(Frozen):
    """A store in the record of its home.

    Attributes
    ----------
    id : its own, as in its mark
    at : when it was founded, UTC
    """

    id: str
    at: datetime


class Identity(Frozen):
    """The record of a home: ``home.json``.

    Attributes
    ----------
    id : of the home, 32 hexadecimal digits
    began : when the home began, or was first given an identity, UTC
    stores : those that were founded
    topics : the identity of each topic's log, as ``streaming.transport`` has it
    numbered : newest number that a version had before the control database began again: none is given twice
    beginning : stores whose beginning again was asked for and is not through
    """

    id: str
    began: datetime
    stores: Mapping[Store, Founded] = {}
    topics: Mapping[str, str] = {}
    numbered: int = 0
    beginning: tuple[Store, ...] = ()

    @classmethod
    def new(cls) -> Identity:
        """Return the record of a home that begins now."""
        return cls(id=secrets.token_hex(16), began=datetime.now(UTC))

    def having(self, store: Store, store_id: str) -> Identity:
        """Return the record with a store founded now."""
        return self.model_copy(update={"stores": {**self.stores, store: Founded(id=store_id, at=datetime.now(UTC))}})

    def without(self, *stores: Store) -> Identity:
        """Return the record without these stores, which may then be founded again."""
        kept = {name: founded for name, founded in self.stores.items() if name not in stores}
        return self.model_copy(update={"stores": kept, "topics": {} if "topics" in stores else self.topics})

    def mark(self, store: Store) -> Mark | None:
        """Return what a store must carry; None while it was not founded."""
        founded = self.stores.get(store)
        return None if founded is None else Mark(self.id, founded.id)


def path_of(home: Path) -> Path:
    """Return the file of a home's record."""
    return home.absolute() / "home.json"


def identity_of(home: Path) -> Identity | None:
    """Return a home's record, None where it has none.

    Raises
    ------
    BadState
        When its file is damaged.
    """
    path = path_of(home)
    try:
        return Identity.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise BadState(
            f"{path} is damaged: it records which stores this home has; restore it ('tidemill restore DIR')"
        ) from error


def write(home: Path, identity: Identity) -> None:
    """Write a home's record; hold :func:`alone` meanwhile."""
    write_atomic(path_of(home), identity.model_dump_json(indent=1).encode())


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Be the only process that founds stores of a home, or changes its record.

    Raises
    ------
    Unavailable
        When another process is at it for a minute.
    """
    make_directory(home.absolute())
    with exclusive(home.absolute() / "home.lock", WAIT_S):
        yield


@contextlib.contextmanager
def founding(home: Path, store: Store, store_id: str = "") -> Iterator[Mark | None]:
    """Found a store alone: make it with the mark that is yielded; it is recorded at the end.

    A process that comes second finds the store there. Where the home has no record nothing is yielded, and nothing
    recorded: stores can be made and tried out by themselves.

    Parameters
    ----------
    store_id : its own id; empty for a random one

    Raises
    ------
    BadState
        When this home had founded it before: what is not there any more is lost.
    """
    if identity_of(home) is None:
        yield None
        return
    with alone(home):
        identity = identity_of(home)
        if identity is None:  # removed meanwhile
            raise BadState(f"{path_of(home)} is missing; restore it ('tidemill restore DIR')")
        if mark := identity.mark(store):
            yield mark
            return
        mark = Mark(identity.id, store_id or secrets.token_hex(16))
        yield mark
        write(home, identity.having(store, mark.store))
