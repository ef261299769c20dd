"""What a store held, as the others know: said when it is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from domain.config import Places
from domain.errors import TidemillError
from domain.stores import Store
from warehouse.control import Control
from warehouse.control_tables import NUMBERS, counters, versions
from warehouse.heartbeats import Heartbeats
from warehouse.stores import catalog_of, data_of


class Versions(NamedTuple):
    """How many versions there are, the number of the newest one, and how far it has come, ns; 0 where none says so."""

    many: int = 0
    newest: int = 0
    watermark: int = 0


def held(places: Places, store: Store) -> str:
    """Return what a store held, in words; what the others do not know is left out."""
    return _WORDS[store](places)


def newest_number(places: Places) -> int:
    """Return a number that no version of this home is above.

    Where the control database is lost that is an estimate from above: every version that was published after the
    newest one whose predictions have landed has a file still.
    """
    return _in_control(places).newest or _served(catalog_of(places.lake)) + _files(places.models)


def _files(models: Path) -> int:
    return sum(1 for _ in models.rglob("*.safetensors"))


def _in_control(places: Places) -> Versions:
    def read(connection: sa.Connection) -> Versions:
        c = versions.c
        figures = sa.select(sa.func.count(), sa.func.max(c.number), sa.func.max(c.watermark))
        count, newest, watermark = connection.execute(figures).one()
        before = connection.execute(sa.select(counters.c.value).where(counters.c.name == NUMBERS)).scalar_one_or_none()
        return Versions(count, max(newest or 0, before or 0), watermark or 0)

    with suppress(TidemillError), Control.of(places) as control:
        return control.read(read)
    return Versions()


def _versions(found: Versions) -> str:
    return f"{found.many:,} versions, the newest v{found.newest}" if found.many else "the versions' books"


def _control(places: Places) -> str:
    files, served = _files(places.models), _served(catalog_of(places.lake))
    return f"the books of {files:,} versions, v{served} the newest whose predictions are in the lake"


def _models(places: Places) -> str:
    return _versions(_in_control(places))


def _key(places: Places) -> str:
    found = _in_control(places)
    return f"the signature of {_versions(found)}" if found.many else "the signature of all versions"


def _lake(places: Places) -> str:
    words = []
    if rows := _rows(catalog_of(places.lake)):
        words.append(" and ".join(f"{n:,} {table}" for table, n in rows.items() if n))
    elif files := [path.stat().st_size for path in data_of(places.lake).rglob("*.parquet")]:
        words.append(f"the rows of {len(files):,} files ({sum(files) / 1e6:.1f} MB)")
    if watermark := _in_control(places).watermark:
        words.append(f"the market until {datetime.fromtimestamp(watermark / 1e9, UTC):%Y-%m-%d %H:%M} UTC")
    return ", ".join(words) or "the market's history"


def _rows(catalog: Path) -> dict[str, int]:
    """Return rows by table, as the catalog counts them."""
    query = (
        "SELECT t.table_name, s.record_count FROM ducklake_table t JOIN ducklake_table_stats s USING (table_id) "
        "WHERE t.end_snapshot IS NULL AND t.table_name IN ('bars', 'predictions') ORDER BY 1"
    )
    return {str(name): int(count) for name, count in _told(catalog, query)}


def _served(catalog: Path) -> int:
    """Return the newest version of which a prediction has landed, by the catalog's statistics; 0 where none says so."""
    query = (
        "SELECT max(CAST(s.max_value AS INTEGER)) FROM ducklake_table_column_stats s "
        "JOIN ducklake_column c USING (table_id, column_id) JOIN ducklake_table t USING (table_id) "
        "WHERE t.table_name = 'predictions' AND c.column_name = 'model_version' AND t.end_snapshot IS NULL"
    )
    return next((int(row[0] or 0) for row in _told(catalog, query)), 0)


def _told(catalog: Path, query: str) -> list[tuple[Any, ...]]:
    if not catalog.exists():
        return []
    engine = sa.create_engine(f"sqlite:///{catalog}", poolclass=sa.NullPool)
    with suppress(sa.exc.DBAPIError), engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]
    return []


def _topics(places: Places) -> str:
    with suppress(TidemillError), Control.of(places) as control:
        read = [beat.progress for beat in Heartbeats(control).beats() if beat.service == "lander"]
        if records := max(read, default=0):
            return f"{records:,} records that the lander has read, and newer ones"
    return "the records on their way, and the dead letters"


_WORDS: Mapping[Store, Callable[[Places], str]] = {
    "control": _control,
    "models": _models,
    "key": _key,
    "lake": _lake,
    "topics": _topics,
    "dagster": lambda _places: "the history of runs, plots and ticks",
}
