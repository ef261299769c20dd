"""Whether a home is whole: each of its stores there, and its own; a line for each that is not."""

from __future__ import annotations

from dataclasses import dataclass

from domain.config import Places
from domain.errors import BadState
from domain.stores import STORES, Store
from warehouse.held import held
from warehouse.identity import Identity, identity_of
from warehouse.marks import Look
from warehouse.stores import fault_of, looks, refuse_beginning

IN_SERVICES: tuple[Store, ...] = ("control", "lake", "key", "models", "topics")
"""What a service stands on; Dagster's storage it never sees."""

TRAINED_AGAIN = "every version and every decision about one: a first model is trained again, from the lake's history"

LOSES: dict[Store, str] = {
    "control": TRAINED_AGAIN,
    "models": TRAINED_AGAIN,
    "key": TRAINED_AGAIN,
    "lake": "rows that neither the source nor the topics tell again, served predictions above all",
    "topics": "records that have neither landed nor been learned and that the source does not tell again, and the dead "
    "letters",
    "dagster": "the history of runs and plots, nothing that is served",
}
"""What beginning again loses, by store."""


@dataclass(frozen=True)
class Loss:
    """A store, or a part of one, that is not what was founded in this home.

    Attributes
    ----------
    look : what is found in its place
    fault : what is wrong with it
    held : what it held, as the others know
    """

    store: Store
    look: Look
    fault: str
    held: str

    @property
    def line(self) -> str:
        """What is wrong, what that held, and the two ways out."""
        return (
            f"the {self.look.what} {self.look.where} {self.fault}; held {self.held}; restore: 'tidemill restore DIR'; "
            f"or begin again: 'tidemill up --begin-again {self.store}', which loses {LOSES[self.store]}"
        )


def losses(places: Places, stores: tuple[Store, ...] = STORES) -> list[Loss]:
    """Return what of a home is missing, empty, damaged or of another home; nothing where it has no record.

    A broker that does not answer is not lost: who needs it waits for it.

    Raises
    ------
    BadState
        When the record is damaged, or a beginning again was not finished.
    Unavailable
        When a PostgreSQL does not answer.
    """
    identity = identity_of(places.home)
    if identity is None:
        return []
    refuse_beginning(identity)
    found = [(store, look) for store in stores for look in _looks(places, identity, store)]
    faults = [
        (store, look, look.fault if store == "topics" else fault_of(identity, store, look)) for store, look in found
    ]
    return [Loss(store, look, fault, held(places, store)) for store, look, fault in faults if fault]


def refuse_losses(places: Places, stores: tuple[Store, ...] = STORES) -> None:
    """Return when a home is whole.

    Raises
    ------
    BadState
        When it is not: a line for each loss.
    Unavailable
        As :func:`losses`.
    """
    if lost := losses(places, stores):
        raise BadState("\n".join(loss.line for loss in lost))


def _looks(places: Places, identity: Identity, store: Store) -> list[Look]:
    if store != "topics":
        return looks(places, store)
    if store not in identity.stores:
        return []
    from domain.errors import Unavailable
    from streaming.identity import look_at_topics

    try:
        return [look_at_topics(places, identity)]
    except Unavailable:
        return []
