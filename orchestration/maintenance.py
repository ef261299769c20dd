"""Maintenance: once a day what nobody needs any longer goes, from the lake, the registry and Dagster's own instance.

Every step may run beside everything that lives: it holds locks for fractions of a second, removes nothing that
something names, and finds less to do when it is repeated.
"""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.resources import Mill
from orchestration.jobs import EVALUATE, REDEPLOY

MAINTENANCE = "maintenance"

FREQUENT = (REDEPLOY, EVALUATE, MAINTENANCE)
"""Jobs whose finished runs go with time; those of the jobs that fill history and train stay."""

DAY_S = 86_400.0

_LIMIT_S = 3_600


class Upkeep(dg.Config):
    """What to do, and how old a thing has to be."""

    compaction: bool = Field(default=True, description="The lake: make one file of adjacent small ones.")
    expiry: bool = Field(default=True, description="The lake: expire snapshots, remove files that none names.")
    retention: bool = Field(default=True, description="Versions that need not stay, heartbeats of dead processes.")
    events: bool = Field(default=True, description="Dagster: old events of reported assets, old runs, and old logs.")
    keep_s: float = Field(default=DAY_S, ge=0, description="Snapshots without a pin expire at this age, seconds.")
    beats_days: float = Field(default=7, ge=1, description="Heartbeats stay so long after a process fell silent.")
    runs_days: float = Field(default=30, ge=1, description=f"Finished runs of {', '.join(FREQUENT)} stay so long.")
    logs_days: float = Field(default=30, ge=1, description="What runs and services printed stays so long.")


NOTHING = dg.Out(dg.Nothing)


@dg.op(out=NOTHING, description="Makes one file of adjacent small ones, table by table.")
def compaction(context: dg.OpExecutionContext, config: Upkeep, mill: dg.ResourceParam[Mill]) -> None:
    """Merge the lake's small files."""
    if not _asked(context, asked=config.compaction):
        return
    from warehouse.maintenance import merge

    with mill.lake() as lake:
        _done(context, files_merged=merge(lake))


@dg.op(out=NOTHING, description="Expires snapshots that nobody pinned; removes files that no snapshot names.")
def expiry(context: dg.OpExecutionContext, config: Upkeep, mill: dg.ResourceParam[Mill]) -> None:
    """Expire the lake's old snapshots, a thousand at a time, and sweep what killed processes left."""
    if not _asked(context, asked=config.expiry):
        return
    from warehouse.maintenance import expire, sweep

    snapshots = files = 0
    with mill.lake() as lake, mill.control() as control:
        while True:
            some, removed = expire(lake, control, config.keep_s)
            snapshots, files = snapshots + some, files + removed
            if not some:
                break
            context.log.info("%d snapshots expired", snapshots)
        _done(context, snapshots_expired=snapshots, files_removed=files, orphans_removed=sweep(lake))


@dg.op(out=NOTHING, description="Removes old versions of every line, also of instruments that are no longer there.")
def versions(context: dg.OpExecutionContext, config: Upkeep, mill: dg.ResourceParam[Mill]) -> None:
    """Prune the registry, some versions at a time."""
    if not _asked(context, asked=config.retention):
        return
    from warehouse.retention import lines, prune

    removed: dict[str, int] = {}
    with mill.control() as control:
        for line in lines(control):
            while gone := prune(control, mill.places.models, line):
                removed[line] = removed.get(line, 0) + len(gone)
                context.log.info("%s: %d versions removed", line, removed[line])
    _done(context, versions_removed=sum(removed.values()))


@dg.op(out=NOTHING, description="Forgets processes that died long ago; the last one of each service stays.")
def heartbeats(context: dg.OpExecutionContext, config: Upkeep, mill: dg.ResourceParam[Mill]) -> None:
    """Forget heartbeats: while one is there, the version that its process served stays too."""
    if not _asked(context, asked=config.retention):
        return
    from warehouse.heartbeats import Heartbeats

    with mill.control() as control:
        _done(context, heartbeats_forgotten=Heartbeats(control).forget(time.time() - DAY_S * config.beats_days))


@dg.op(out=NOTHING, description="Thins old events of versions and services; the newest of each kind stays.")
def events(context: dg.OpExecutionContext, config: Upkeep) -> None:
    """Thin what sensors reported."""
    if not _asked(context, asked=config.events):
        return
    from orchestration.thinning import thin

    _done(context, events_removed=thin(context.instance, time.time()))


@dg.op(out=NOTHING, ins={"thinned": dg.In(dg.Nothing)}, description="Deletes old runs of frequent jobs.")
def runs(context: dg.OpExecutionContext, config: Upkeep) -> None:
    """Delete old runs, and give the space that rows left back to the disk, where it is much."""
    if not _asked(context, asked=config.events):
        return
    from orchestration.thinning import drop_runs
    from warehouse.vacuum import vacuum

    dropped = drop_runs(context.instance, FREQUENT, time.time() - DAY_S * config.runs_days)
    databases = Path(context.instance.root_directory).rglob("*.db")
    _done(context, runs_deleted=dropped, bytes_vacuumed=sum(map(vacuum, databases)))


@dg.op(out=NOTHING, description="Removes what runs and services printed long ago.")
def logs(context: dg.OpExecutionContext, config: Upkeep, mill: dg.ResourceParam[Mill]) -> None:
    """Remove old logs of runs and ticks, and old rotated logs of services; the one being written stays."""
    if not _asked(context, asked=config.events):
        return
    before = time.time() - DAY_S * config.logs_days
    printed = Path(context.instance.storage_directory()).glob("**/compute_logs/*")
    rotated = (mill.places.home / "services").glob("*/log.*")
    files, size = 0, 0
    for file in (*_older(printed, before), *_older(rotated, before)):
        files, size = files + 1, size + file.stat().st_size
        file.unlink()
        with contextlib.suppress(OSError):  # a directory that still holds something
            file.parent.rmdir()
            file.parent.parent.rmdir()
    _done(context, files_removed=files, bytes_removed=size)


@dg.config_mapping
def _upkeep(val: Upkeep) -> dg.RunConfig:
    """Give the one form to every step."""
    return dg.RunConfig(ops={step.name: val for step in (compaction, expiry, versions, heartbeats, events, runs, logs)})


@dg.job(
    name=MAINTENANCE,
    config=_upkeep,
    tags={"dagster/max_runtime": str(_LIMIT_S)},
    description="Removes what nobody needs any longer: small files, snapshots and orphans of the lake, old versions "
    "and heartbeats, Dagster's old events, runs and logs. Safe at any time; each step says what it removed.",
)
def maintenance() -> None:
    """Do all steps; one that fails keeps none of the others from its work."""
    compaction()
    expiry()
    versions()
    heartbeats()
    runs(events())
    logs()


maintenance_schedule = dg.ScheduleDefinition(
    name=MAINTENANCE,
    job=maintenance,
    cron_schedule="17 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a day, at a time when no other schedule begins.",
)


def _asked(context: dg.OpExecutionContext, *, asked: bool) -> bool:
    if not asked:
        context.log.info("not asked for")
    return asked


def _done(context: dg.OpExecutionContext, **counts: int) -> None:
    context.log.info(", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in counts.items()))
    context.add_output_metadata(counts)


def _older(paths: Iterable[Path], before: float) -> list[Path]:
    return [path for path in paths if path.is_file() and path.stat().st_mtime < before]
