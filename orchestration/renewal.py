"""Beginning again: a store that is lost is given up on purpose, and with it what means nothing without it.

What is left of it is kept aside, below ``retired``; the next founding then makes a new one. Cut short at any instant,
it is finished by the next ``tidemill up``, and nothing starts before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from domain.config import Places
from domain.errors import UsageError
from domain.stores import STORES, Store
from orchestration.deployment import supervisor_of
from orchestration.wholeness import LOSES
from warehouse.files import make_directory, sync_directory
from warehouse.held import newest_number
from warehouse.identity import alone, identity_of, write
from warehouse.stores import files_of, looks

TOGETHER: Mapping[Store, tuple[Store, ...]] = {
    # Rows without files, files without rows, and files of another key's signature are all refused one by one.
    "control": ("control", "models"),
    "models": ("control", "models"),
    "key": ("control", "models", "key"),
    "lake": ("lake",),
    "topics": ("topics",),
    "dagster": ("dagster",),
}
"""What begins again with a store."""

_NAMED: Mapping[Store, str] = {"control": "TIDEMILL_CONTROL_URL", "dagster": "TIDEMILL_DAGSTER_URL"}


def begin_again(places: Places, stores: Sequence[Store]) -> None:
    """Give up these stores, and finish what was begun before; where there is nothing to do, do nothing.

    Raises
    ------
    UsageError
        When a service of this home runs, the home has no record yet, or a database of its own must be emptied first.
    """
    identity = identity_of(places.home)
    if identity is None:
        if stores:
            raise UsageError(f"{places.home} has never begun: nothing of it begins again")
        return
    if not stores and not identity.beginning:
        return
    _refuse_running(places)
    log = structlog.get_logger()
    with alone(places.home):
        identity = identity_of(places.home) or identity
        wanted = {*identity.beginning, *(part for store in stores for part in TOGETHER[store])}
        given_up = tuple(store for store in STORES if store in wanted)
        for store in given_up:
            _demand_room(places, store)
            log.warning("begins again", store=store, loses=LOSES[store])
        if not identity.beginning:
            identity = identity.model_copy(update={"numbered": max(identity.numbered, newest_number(places))})
        write(places.home, identity := identity.model_copy(update={"beginning": given_up}))
        aside = places.home.absolute() / "retired" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        for store in given_up:
            for path in files_of(places, store):
                _put_aside(path, aside)
        write(places.home, identity.without(*given_up).model_copy(update={"beginning": ()}))
    if aside.exists():
        log.info("kept aside", where=str(aside))


def _refuse_running(places: Places) -> None:
    supervisor = supervisor_of(places)
    running = [name for name in supervisor.names() if supervisor.status(name).pid is not None]
    if running:
        raise UsageError(f"{', '.join(running)} runs in this home; 'tidemill down' first, then begin again")


def _demand_room(places: Places, store: Store) -> None:
    """Return when what is there can be put aside: a database that is named by its URL is not ours to move."""
    if store in _NAMED and not files_of(places, store) and looks(places, store)[0].there:
        raise UsageError(f"{_NAMED[store]}: that database holds tables; name an empty one, then begin {store} again")


def _put_aside(path: Path, aside: Path) -> None:
    if path.exists() or path.is_symlink():
        make_directory(aside)
        path.rename(aside / path.name)
        sync_directory(aside)
        sync_directory(path.parent)
