"""A home's stores at rest: what each carries, whether it is the one that was founded here, and the adoption of others.

Topics are at a broker's: see ``streaming.topics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import sqlalchemy as sa

from domain.config import Places
from domain.errors import BadState
from domain.stores import Store
from warehouse.identity import Identity, Mark, identity_of
from warehouse.keys import configured_key, fingerprint, key_path
from warehouse.marks import Look, in_database, in_directory, mark_database, mark_directory

ASK = "'tidemill doctor' says what it held and what to do"


def looks(places: Places, store: Store) -> list[Look]:
    """Return what is found where a store should be: one look for each of its parts.

    Raises
    ------
    Unavailable
        When a PostgreSQL does not answer.
    UsageError
        When the key can be read by others, or not by us.
    """
    return _LOOKS[store](places)


def fault_of(identity: Identity, store: Store, look: Look) -> str:
    """Return what is wrong with a part of a store; nothing when it is the home's own, or was never founded.

    >>> home = Identity.new().having("lake", "l1")
    >>> fault_of(home, "lake", Look("lake's catalog", "lake", "", Mark(home.id, "l1")))
    ''
    >>> fault_of(home, "lake", Look("lake's catalog", "lake", "", Mark("h2", "l1")))
    'is of another home'
    >>> fault_of(home, "control", Look("control database", "control.sqlite", "is missing"))
    ''
    """
    wanted = identity.mark(store)
    if wanted is None:
        return "is of another home" if look.mark is not None and look.mark.home != identity.id else ""
    if look.fault:
        return look.fault
    if store == "key":
        return "" if look.mark == wanted else "is another key than the one that signed this home's versions"
    if look.mark is None:
        return "carries no identity"
    if look.mark.home != identity.id:
        return "is of another home"
    return "" if look.mark == wanted else "is an earlier one of this home"


def demand(places: Places, *stores: Store) -> None:
    """Return when these stores are the home's own; where the home has no record nothing is known against them.

    Raises
    ------
    BadState
        When one that was founded in this home is missing, empty or damaged, or one is of another home.
    """
    identity = identity_of(places.home)
    if identity is None:
        return
    refuse_beginning(identity)
    for store in stores:
        for look in looks(places, store):
            if fault := fault_of(identity, store, look):
                raise BadState(f"the {look.what} {look.where} {fault}; {ASK}")


def refuse_beginning(identity: Identity) -> None:
    """Return when no beginning again of a store is under way.

    Raises
    ------
    BadState
        When one is, or was cut short.
    """
    if identity.beginning:
        raise BadState(f"beginning again of {', '.join(identity.beginning)} is not through; 'tidemill up' finishes it")


def adopt(places: Places, store: Store, mark: Mark) -> None:
    """Let a store that carries nothing carry a mark: one made before its home had an identity, or half-founded."""
    _ADOPT[store](places, mark)


def files_of(places: Places, store: Store) -> list[Path]:
    """Return the files and directories below home, or named by a SQLite URL, that are all of a store."""
    home = places.home.absolute()
    if store == "control":
        url = sa.engine.make_url(places.control)
        file = Path(url.database or "")
        ours = url.get_backend_name() == "sqlite"
        return [file.with_name(file.name + end) for end in ("", "-wal", "-shm")] if ours else []
    elsewhere = {"key": places.model_key, "topics": places.kafka_bootstrap_servers, "dagster": places.dagster_url}
    if elsewhere.get(store):
        return []
    names = {"models": "models", "key": "model.key", "lake": "lake", "topics": "broker", "dagster": "dagster"}
    return [home / names[store]]


def catalog_of(root: Path) -> Path:
    """Return the catalog of the lake in a directory."""
    return root / "catalog.sqlite"


def data_of(root: Path) -> Path:
    """Return the directory of the data files of the lake in a directory."""
    return root / "data"


def _control(places: Places) -> list[Look]:
    return [in_database("control database", places.control, "control", "schema_version")]


def _lake(places: Places) -> list[Look]:
    return [
        in_database("lake's catalog", _catalog_url(places), "lake", "ducklake_snapshot"),
        in_directory("lake's data", data_of(places.lake)),
    ]


def _key(places: Places) -> list[Look]:
    path = key_path(places)
    where = "TIDEMILL_MODEL_KEY" if places.model_key else str(path)
    if not places.model_key and not path.exists():
        return [Look("model key", where, "is missing")]
    if not places.model_key and not path.stat().st_size:
        return [Look("model key", where, "is empty")]
    identity = identity_of(places.home)
    return [Look("model key", where, "", Mark(identity.id if identity else "", fingerprint(configured_key(places))))]


def _models(places: Places) -> list[Look]:
    return [in_directory("models' directory", places.models)]


def _dagster(places: Places) -> list[Look]:
    return [in_database("storage of Dagster", dagster_url(places), "dagster", "runs")]


def dagster_url(places: Places) -> str:
    """Return the SQLAlchemy URL of the database that holds Dagster's runs."""
    return places.dagster_url or f"sqlite:///{places.home.absolute() / 'dagster' / 'history' / 'runs.db'}"


def _catalog_url(places: Places) -> str:
    return f"sqlite:///{catalog_of(places.lake)}"


def _adopt_lake(places: Places, mark: Mark) -> None:
    mark_directory(data_of(places.lake), mark)
    mark_database(_catalog_url(places), "lake", mark)


_LOOKS: Mapping[Store, Callable[[Places], list[Look]]] = {
    "control": _control,
    "lake": _lake,
    "key": _key,
    "models": _models,
    "dagster": _dagster,
    "topics": lambda _places: [],
}

_ADOPT: Mapping[Store, Callable[[Places, Mark], None]] = {
    "control": lambda places, mark: mark_database(places.control, "control", mark),
    "lake": _adopt_lake,
    "key": lambda _places, _mark: None,
    "models": lambda places, mark: mark_directory(places.models, mark),
    "dagster": lambda places, mark: mark_database(dagster_url(places), "dagster", mark),
    "topics": lambda _places, _mark: None,
}
