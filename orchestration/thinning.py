"""Thinning: Dagster keeps every event and run for good; here those go that come often, once they are old.

A run can be deleted by public API. An event that belongs to no run cannot: for these the instance's own storage and
its tables are used, as they are in Dagster 1.13.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Kind
from dagster._core.events.log import EventLogEntry
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._serdes import deserialize_value

from domain.retention import EVENTS, Age, expired

REPORTED = ("model_versions", "services")
"""First part of the keys of the assets that sensors report: their events are many, and no partition hangs on them."""

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

_KINDS = [Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.FRESHNESS_STATE_CHANGE]
_AT_ONCE = 500
# Events removed in one transaction: some 20 ms, for which a sensor's tick waits.

Connect = Callable[[], AbstractContextManager[Any]]
Series = tuple[str, ...]


def thin(instance: dg.DagsterInstance, now: float) -> int:
    """Remove the old events without a run of reported assets that ``EVENTS`` does not keep; return how many.

    Parameters
    ----------
    now : unix seconds

    Notes
    -----
    The newest of each asset, kind and check stays at any age, and so does the newest evaluation of a check that
    passed and that failed: what an asset's page says of today does not change. Passed and failed evaluations are
    thinned apart, so that a failed one never gives way to a passed one.
    """
    storage = _storage(instance)
    removed = _thin(storage.index_transaction, now)
    if storage.is_run_sharded:
        # SQLite holds an event twice: in the index over all runs and, under another number, in its run's file.
        _thin(lambda: storage.run_connection(RUNLESS_RUN_ID), now)
    return removed


def drop_runs(instance: dg.DagsterInstance, jobs: Sequence[str], before: float) -> int:
    """Delete finished runs of these jobs with all they logged; return how many.

    Parameters
    ----------
    before : unix seconds: runs that changed later stay

    Notes
    -----
    A run that holds the newest materialization of an asset, or the newest evaluation of a check, stays at any age.
    """
    held = _held(instance)
    until = datetime.fromtimestamp(before, UTC)
    filters = [dg.RunsFilter(job_name=job, statuses=FINISHED, updated_before=until) for job in jobs]
    gone = [run_id for one in filters for run_id in instance.get_run_ids(one) if run_id not in held]
    for run_id in gone:
        _drop(instance, run_id)
    return len(gone)


def _thin(connect: Connect, now: float) -> int:
    with connect() as connection:
        gone = [
            number
            for ages in _series(connection).values()
            for number in expired(ages, [max(age.number for age in ages)], now, EVENTS)
        ]
    gone.sort()
    for at in range(0, len(gone), _AT_ONCE):
        with connect() as connection:
            _remove(connection, gone[at : at + _AT_ONCE])
    return len(gone)


def _series(connection: Any) -> dict[Series, list[Age]]:  # noqa: ANN401 - only the warehouse knows SQLAlchemy
    """Return the reported events by what they are of: kind and asset, or check and outcome."""
    c = SqlEventLogStorageTable.c
    found: dict[Series, list[Age]] = defaultdict(list)
    query = SqlEventLogStorageTable.select().where(c.run_id == RUNLESS_RUN_ID, c.partition.is_(None))
    plain = query.with_only_columns(c.id, c.timestamp, c.dagster_event_type, c.asset_key)
    for number, at, kind, key in connection.execute(plain.where(c.dagster_event_type.in_([k.value for k in _KINDS]))):
        asset = dg.AssetKey.from_db_string(key)
        if asset is not None and asset.path[0] in REPORTED:
            found[kind, key].append(Age(number, _seconds(at)))
    # Of an evaluation the table knows neither asset nor check: they are in its text only.
    checks = query.with_only_columns(c.id, c.timestamp, c.event)
    for number, at, text in connection.execute(checks.where(c.dagster_event_type == Kind.ASSET_CHECK_EVALUATION.value)):
        event = deserialize_value(text, EventLogEntry).get_dagster_event()
        said = event.asset_check_evaluation_data
        if said.asset_key.path[0] in REPORTED and said.partition is None:
            of = (Kind.ASSET_CHECK_EVALUATION.value, said.asset_key.to_string(), said.check_name, str(said.passed))
            found[of].append(Age(number, _seconds(at)))
    return found


def _remove(connection: Any, numbers: list[int]) -> None:  # noqa: ANN401 - only the warehouse knows SQLAlchemy
    # The event goes last: what stopped in between is found and finished the next time.
    tags, checks, events = AssetEventTagsTable, AssetCheckExecutionsTable, SqlEventLogStorageTable
    connection.execute(tags.delete().where(tags.c.event_id.in_(numbers)))
    of_them = (checks.c.run_id == RUNLESS_RUN_ID, checks.c.evaluation_event_storage_id.in_(numbers))
    connection.execute(checks.delete().where(*of_them))
    connection.execute(events.delete().where(events.c.id.in_(numbers)))


def _held(instance: dg.DagsterInstance) -> set[str | None]:
    held: set[str | None] = set()
    for record in instance.get_asset_records():
        entry = record.asset_entry
        held |= {entry.last_run_id, entry.last_materialization.run_id if entry.last_materialization else None}
    c = AssetCheckExecutionsTable.c
    query = AssetCheckExecutionsTable.select().with_only_columns(c.asset_key, c.check_name, c.run_id).order_by(c.id)
    with _storage(instance).index_connection() as connection:
        newest = {(key, name): run_id for key, name, run_id in connection.execute(query)}
    return held | set(newest.values())


def _drop(instance: dg.DagsterInstance, run_id: str) -> None:
    storage = _storage(instance)
    checks = AssetCheckExecutionsTable
    with storage.index_connection() as connection:
        connection.execute(checks.delete().where(checks.c.run_id == run_id))
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)


def _storage(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"events in a {type(storage).__name__} cannot be thinned; use SQLite or PostgreSQL")
    return storage


def _seconds(at: datetime) -> float:
    """Return unix seconds of what the table holds: UTC without saying so."""
    return at.replace(tzinfo=UTC).timestamp()
