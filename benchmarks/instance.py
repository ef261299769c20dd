"""Whether Dagster's instance stays as it is: days of the real sensors, schedules and maintenance, at another clock.

Run ``python benchmarks/instance.py [--days 8] [--step 720] [--every 20] [--url postgresql://...] [--json]``. It is
on disk and made as ``tidemill up`` makes it. Sensors are ticked by the daemon's own code, which also purges their
ticks; schedules by the scheduler's, which launches the maintenance job. The clock jumps by ``--step`` seconds, at which
each line has a new version, each sensor one tick, and every ``--every`` steps twelve checks run and six services are
observed: 60 and 60 are the rates of the default configuration, and take some minutes a day. The ticks between two steps
are rows copied from the real ones, with their own times; versions are rows of the registry without artifacts; services
are processes that do nothing; the market's clock stands still, so that no closed day is backfilled. Of megabytes, those
of ticks, of events without a run, and of runs are told apart on SQLite. ``--costs 120`` measures instead what each
thing adds: an event, a run of checks, and the backfill of a closed day. Edit no source meanwhile: the sensor would
redeploy it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import dagster as dg
import sqlalchemy as sa
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import sensor as sensor_daemon
from dagster._scheduler.scheduler import launch_scheduled_runs

from assets.models import version_event, version_key
from assets.services import key_of
from domain.baselines import BASELINES
from domain.config import Places, Project
from domain.health import Beat
from orchestration.deployment import STREAMS, Deployment
from orchestration.instance import prepare_instance
from orchestration.settings import read_project
from warehouse.control import Control
from warehouse.control_tables import counters, versions
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry

ROOT = Path(__file__).parents[1]
DAY_S, TICK_S = 86_400, 5
CHECKS, OBSERVED = 12, 6

# The daemon's code asks for these: runs in this process, at this clock.
IN_THIS_PROCESS = """
run_launcher: { module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher }
"""


class Clock:
    """What every part reads for the time."""

    def __init__(self, start: float) -> None:
        self.start = self.now = start

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let Dagster and ourselves read this clock."""
        with freeze_time(self.now), mock.patch("time.time", return_value=self.now):
            yield


class Mill:
    """Registry and services, as far as sensors look at them."""

    def __init__(self, places: Places, project: Project, clock: Clock) -> None:
        self.places, self.project, self.clock = places, project, clock
        self.control = Control(places.control, lambda: clock.now)
        self.control.prepare()
        self.deployment = Deployment(places, project)
        self.number = 0
        for name in STREAMS:
            self.deployment.supervisor.start(name, ["sleep", "infinity"], meta=self.deployment.fingerprint())
        for name in STREAMS:
            self.deployment.supervisor.wait(name, {"running"}, 30.0)

    def advance(self) -> None:
        """Let every service beat, and a version of every line appear."""
        for name in STREAMS:
            pid, now = self.deployment.supervisor.status(name).pid or 0, self.clock.now
            detail = {"dead_letters": {}, "version": dict.fromkeys(self.project.instruments, self.number)}
            beat = Beat(name, "only", pid, "running", 1, {"features/0": self.number}, self.number, now, 0, ready=True,
                        beat_at=now, started_at=self.clock.start, detail=detail)  # fmt: skip
            assert Heartbeats(self.control).beat(beat)
        self.number += 1
        rows = [self._row(line) for line in self.project.instruments]
        for n, row in enumerate(rows, 1):
            row["id"] = (self.number - 1) * len(rows) + n
        moved = sa.update(counters).where(counters.c.name == "versions").values(value=rows[-1]["id"])
        self.control.write(lambda c: (c.execute(sa.insert(versions), rows), c.execute(moved)))

    def _row(self, line: str) -> dict[str, Any]:
        members = [*(model.name for model in self.project.fleet), "frozen", *BASELINES]
        score = lambda: {"n": self.number, "loss": random.random(), "recent_loss": random.random()}  # noqa: E731
        targets = {target: {name: score() for name in members} for target in self.project.fleet[0].targets}
        return {
            "line": line, "number": self.number, "kind": "initial" if self.number == 1 else "update",
            "parent": self.number - 1 or None, "watermark": int(self.clock.now * 1e9), "n_learned": self.number,
            "snapshot": None, "offsets": {"features_with_target/0": self.number},
            "digest": f"{random.getrandbits(256):x}", "metrics": targets, "created_at": self.clock.now,
            "sha256": f"{random.getrandbits(256):x}",
            "path": f"{line.replace(':', '__')}/{self.number}-1.safetensors", "size": 90_000,
        }  # fmt: skip

    def end(self) -> None:
        """Stop the services."""
        self.deployment.supervisor.stop_all()
        self.control.close()


class Daemon:
    """One process in place of daemon, scheduler and code server, with their own code."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext, clock: Clock) -> None:
        self.instance, self.workspace, self.clock = instance, workspace, clock
        self.durations: list[float] = []
        self.log = logging.getLogger("daemon")
        self.log.setLevel(logging.ERROR)
        tick = sensor_daemon._process_tick_generator  # noqa: SLF001

        def timed(*args: object, **options: object) -> Iterator[Any]:
            began = time.perf_counter()
            yield from tick(*args, **options)
            self.durations.append(time.perf_counter() - began)

        sensor_daemon._process_tick_generator = timed  # noqa: SLF001

    def turn(self, step: int) -> None:
        """Tick every sensor once and every schedule as often as its cron says, and fill in the ticks between."""
        for error in sensor_daemon.execute_sensor_iteration(self.workspace, self.log, None, None):
            assert error is None, error
        for error in launch_scheduled_runs(self.workspace, self.log, datetime.fromtimestamp(self.clock.now, UTC), {}):
            assert error is None or not hasattr(error, "message"), error
        self._fill(step)

    def _fill(self, step: int) -> None:
        storage = self.instance.schedule_storage
        query = JobTickTable.select().where(JobTickTable.c.type == "SENSOR").order_by(JobTickTable.c.id.desc()).limit(3)
        with storage.connect() as connection:  # type: ignore[union-attr]
            rows = [dict(row) for row in connection.execute(query).mappings()]
            copies = []
            for row in rows:
                del row["id"]
                at = row["timestamp"].replace(tzinfo=UTC).timestamp()
                for k in range(1, step // TICK_S):
                    stamp = datetime.fromtimestamp(at - k * TICK_S, UTC).replace(tzinfo=None)
                    copies.append(row | {"timestamp": stamp})
            connection.execute(sa.insert(JobTickTable), copies)


def evaluation(project: Project) -> dg.JobDefinition:
    """Return a job of twelve checks, about as large as a real evaluation of the served models."""
    keys = [version_key(line) for line in project.instruments]
    specs = [dg.AssetCheckSpec(f"check_{n}", asset=keys[n % len(keys)]) for n in range(CHECKS)]

    @dg.multi_asset_check(specs=specs)
    def served() -> Iterator[dg.AssetCheckResult]:
        for spec in specs:
            metadata = {f"figure_{k}": random.random() for k in range(6)}
            passed = random.random() < 0.95
            yield dg.AssetCheckResult(passed=passed, asset_key=spec.asset_key, check_name=spec.name, metadata=metadata)

    job = dg.define_asset_job("evaluate", dg.AssetSelection.checks(served))
    assets = [dg.AssetSpec(key) for key in keys]
    loaded = dg.Definitions(assets=assets, asset_checks=[served], jobs=[job], executor=dg.in_process_executor)
    return loaded.resolve_job_def("evaluate")


def observe(instance: dg.DagsterInstance) -> None:
    """Report what a look at the services says once an hour."""
    for name in (*STREAMS, "broker")[:OBSERVED]:
        figures = {f"figure_{k}": random.random() for k in range(8)}
        instance.report_runless_asset_event(dg.AssetObservation(key_of(name), metadata=figures | {"phase": "running"}))


def measure(instance: dg.DagsterInstance, home: Path) -> dict[str, float]:
    """Return how large the instance is, and what it holds."""
    count = lambda c, table, *where: c.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar()  # noqa: E731
    runless = SqlEventLogStorageTable.c.run_id == ""
    with instance.event_log_storage.index_connection() as c:  # type: ignore[attr-defined]
        events, checks = count(c, SqlEventLogStorageTable, runless), count(c, AssetCheckExecutionsTable)
        size = 0
        if c.dialect.name == "postgresql":
            total = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relkind = 'r' AND relnamespace = "
            size = int(c.exec_driver_sql(f"{total} current_schema()::regnamespace").scalar() or 0)
    with instance.schedule_storage.connect() as c:  # type: ignore[union-attr]
        ticks = count(c, JobTickTable)
    root = home / "dagster"
    files = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    ticks_mb = sum(n for name, n in files.items() if name.startswith("schedules")) / 1e6
    events_mb = sum(n for name, n in files.items() if name.startswith(("history/runs/.db", "history/runs/index"))) / 1e6
    mb = (size + sum(files.values())) / 1e6
    return {
        "mb": mb, "ticks_mb": ticks_mb, "events_mb": events_mb, "runs_mb": mb - size / 1e6 - ticks_mb - events_mb,
        "files": len(files), "runless_events": events, "check_records": checks, "ticks": ticks,
        "runs": instance.get_runs_count(),
        "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6,
    }  # fmt: skip


def live(mill: Mill, daemon: Daemon, job: dg.JobDefinition, days: int, step: int, every: int) -> list[dict[str, float]]:
    """Live for some days; return how the instance was at the end of each."""
    report = []
    for day in range(1, days + 1):
        began, daemon.durations = time.perf_counter(), []
        for second in range(step, DAY_S + 1, step):
            mill.clock.now = mill.clock.start + (day - 1) * DAY_S + second
            with mill.clock.held():
                mill.advance()
                daemon.turn(step)
                if second % (every * step) == 0:
                    assert job.execute_in_process(instance=daemon.instance).success
                    observe(daemon.instance)
        ticks = [1e3 * duration for duration in daemon.durations]
        cuts = statistics.quantiles(ticks, n=100)
        figures = measure(daemon.instance, mill.places.home) | {"tick_p50_ms": cuts[49], "tick_p99_ms": cuts[98]}
        report.append({"day": day, **figures, "took_s": time.perf_counter() - began})
        print(json.dumps({k: round(v, 1) for k, v in report[-1].items()}), file=sys.stderr, flush=True)
    return report


def costs(instance: dg.DagsterInstance, mill: Mill, n: int) -> dict[str, float]:
    """Return the kilobytes that each thing adds to the instance, the mean of ``n`` (runs: of a tenth) after a first."""
    from orchestration.definitions import definitions
    from orchestration.jobs import range_tags

    for _ in range(n):
        mill.advance()
    found = Registry(mill.control, mill.places.models).since(0, 2 * n)
    events = [version_event(mill.project, version) for version in found[:n]]
    evaluate = evaluation(mill.project)
    backfill = definitions(mill.places, mill.project).resolve_job_def("backfill")
    days = [f"2025-01-0{1 + k}" for k in range(7)]
    work: dict[str, list[Callable[[], object]]] = {
        "version event": [lambda e=e: instance.report_runless_asset_event(e) for e in events],
        "six observations": [lambda: observe(instance)] * (n // 6),
        "evaluation run": [lambda: evaluate.execute_in_process(instance=instance)] * (n // 10),
        "closed day": [lambda d=d: backfill.execute_in_process(instance=instance, tags=range_tags(d, d)) for d in days],
    }
    figures = {}
    for what, steps in work.items():
        steps[0]()
        before = measure(instance, mill.places.home)["mb"]
        for step in steps[1:]:
            step()
        figures[what] = 1e3 * (measure(instance, mill.places.home)["mb"] - before) / (len(steps) - 1)
    return figures


def main() -> None:
    """Live, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--step", type=int, default=720, help="seconds between two real ticks")
    parser.add_argument("--every", type=int, default=20, help="steps between two evaluations")
    parser.add_argument("--costs", type=int, default=0, help="measure what so many of each thing cost instead")
    parser.add_argument("--url", default="", help="of a PostgreSQL instead of SQLite")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    random.seed(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        places = Places(home=Path(directory), config=ROOT / "tidemill.toml", dagster_url=asked.url)
        os.environ |= {"TIDEMILL_HOME": directory, "TIDEMILL_CONFIG": str(places.config)}
        os.environ["TIDEMILL_DAGSTER_URL"] = places.dagster_url
        settings = prepare_instance(places.home, places.dagster_url) / "dagster.yaml"
        settings.write_text(settings.read_text() + IN_THIS_PROCESS)
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(settings.parent)))
        project = read_project(places)
        # Midnight UTC, so that a day of the clock is a day of the report.
        clock = Clock(time.time() // DAY_S * DAY_S - asked.days * DAY_S)
        mill = Mill(places, project, clock)
        stack.callback(mill.end)
        if asked.costs:
            print(json.dumps({what: round(kb, 1) for what, kb in costs(instance, mill, asked.costs).items()}))
            return
        origin = LoadableTargetOrigin(executable_path=sys.executable, module_name="orchestration.definitions")
        target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin))
        workspace = stack.enter_context(WorkspaceProcessContext(instance, target))
        report = live(
            mill, Daemon(instance, workspace, clock), evaluation(project), asked.days, asked.step, asked.every
        )
    if asked.json:
        print(json.dumps(report))
        return
    print(" ".join(f"{name:>14}" for name in report[0]))
    for row in report:
        print(" ".join(f"{value:>14.1f}" for value in row.values()))


if __name__ == "__main__":
    main()
