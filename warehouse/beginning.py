"""A home's beginning: its record is made, its first stores are founded, and those of an older home are adopted."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
import structlog

from domain.config import Places
from domain.errors import BadState
from domain.stores import Store
from warehouse.control import Control, upsert
from warehouse.control_tables import NUMBERS, counters, versions
from warehouse.identity import Identity, Mark, alone, identity_of, path_of, write
from warehouse.marks import mark_directory
from warehouse.stores import adopt, fault_of, looks

_AT_REST: tuple[Store, ...] = ("control", "models", "key", "lake", "dagster")
_RESTORE = "'tidemill restore DIR' puts one moment of a backup in place"


def begin(places: Places) -> Identity:
    """Return a home's record; a home without one begins now, and stores that are there without a mark are adopted.

    Any number of processes may do so at once. What the home had and is not there is not touched: see
    ``warehouse.stores.demand``.

    Raises
    ------
    BadState
        When the home has no record and its stores do not fit together, so that one must be lost.
    Unavailable
        When a database does not answer.
    """
    with alone(places.home):
        identity = identity_of(places.home)
        older: list[Store] = []
        if identity is None:
            identity, older = _first(places)
            write(places.home, identity)
        for store in _AT_REST:
            if store not in identity.stores and (store_id := _settled(places, identity, store)):
                identity = identity.having(store, store_id)
                write(places.home, identity)
        if older:
            structlog.get_logger().info("a home of before is adopted", home=identity.id, stores=", ".join(older))
        return identity


def _settled(places: Places, identity: Identity, store: Store) -> str:
    """Return the id of a store that is in no record yet: adopted, or founded now; nothing where its time is to come."""
    seen = looks(places, store)
    marks = {look.mark for look in seen}
    if any(fault_of(identity, store, look) for look in seen):
        return ""
    if len(marks) == 1 and (mark := marks.pop()) is not None:  # founded, and the process died before it was recorded
        return mark.store
    mark = Mark(identity.id, secrets.token_hex(16))
    if store == "control" and (not seen[0].fault or not seen[0].there):
        _prepare(places, identity)
        adopt(places, store, mark)
    elif not seen[0].fault:
        adopt(places, store, mark)
    elif store == "models":
        mark_directory(places.models, mark)
    else:
        return ""
    return mark.store


def _prepare(places: Places, identity: Identity) -> None:
    """Make the tables of a control database, and have it count versions from where the one before it ended."""
    first = {"name": NUMBERS}, {"value": identity.numbered}
    with Control.open(places.control) as control:
        if identity.numbered:
            control.write(lambda c: upsert(c, counters, *first))


def _first(places: Places) -> tuple[Identity, list[Store]]:
    """Return the record of a home that has none, a new one or that of its stores, and the stores that are there.

    A home of an earlier release holds versions of a model, and then all that these need, or none.
    """
    seen = {store: looks(places, store) for store in _AT_REST}
    control = seen["control"][0]
    if control.there and control.fault:
        raise BadState(f"the {control.what} {control.where} {control.fault}; {_RESTORE}")
    homes = {look.mark.home for part in seen.values() for look in part if look.mark is not None and look.mark.home}
    lost = [look for store in ("control", "lake", "key", "models") for look in seen[store] if look.fault]
    held = _versions(places) if control.there else 0
    begun = held > 0 if control.there else seen["lake"][0].there or any(places.models.rglob("*.safetensors"))
    if len(homes) > 1:
        raise BadState(f"{path_of(places.home)} is missing, and its stores are of several homes; {_RESTORE}")
    if lost and (homes or begun):
        named = " and ".join(f"the {look.what} {look.where} {look.fault}" for look in lost)
        raise BadState(f"{named}, though this home holds the remains of a model; {_RESTORE}")
    identity = Identity.new()
    if homes:
        identity = identity.model_copy(update={"id": homes.pop()})
    return identity, [store for store, part in seen.items() if not part[0].fault] if control.there else []


def _versions(places: Places) -> int:
    with Control(places.control) as control:
        return control.read(lambda c: int(c.execute(sa.select(sa.func.count()).select_from(versions)).scalar_one()))
