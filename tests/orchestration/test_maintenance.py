"""The maintenance job on a real home: a used lake, registry and instance, and everything in them that is old."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import freeze_time

from domain.events import NANOS_PER_DAY
from domain.features import FEATURES, VectorRecord
from domain.health import Beat
from orchestration.definitions import definitions
from orchestration.maintenance import DAY_S, maintenance
from tests.instances import instance_at
from tests.mills import mill_at
from warehouse.control import Control
from warehouse.control_tables import versions
from warehouse.heartbeats import Heartbeats
from warehouse.landing import Batch, land
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.retention import FALLBACKS
from warehouse.tables import records_to_rows
from warehouse.versions import VersionInfo

BTC, GONE = "simulated:BTC-USD", "simulated:DOGE-USD"
VERSION = dg.AssetKey(["model_versions", "simulated_BTC_USD"])
NOW = time.time()
BEAT = Beat("trainer", "a", 7, "running", 0, {}, 1, NOW, 0, ready=True, beat_at=NOW, started_at=NOW)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A mill with a year behind it, and its instance."""
    mill = mill_at(tmp_path_factory.mktemp("home"))
    with mill.lake() as lake:
        for k in range(8):
            record = VectorRecord(BTC, 20_000 * NANOS_PER_DAY + 1 + k, *[float(k)] * len(FEATURES))
            land(lake, [Batch("features", "features", 0, records_to_rows("features", [record], [k]), k + 1)])
    with mill.control() as control:
        for line in (BTC, GONE):
            publish(control, mill, line, FALLBACKS + 5)
        for instance, at in (("a", NOW - 30 * DAY_S), ("b", NOW - 9 * DAY_S), ("c", NOW)):
            assert Heartbeats(control).beat(replace(BEAT, instance=instance, beat_at=at))
    with instance_at(mill.places.home) as instance:
        hour = datetime.fromtimestamp(NOW - 2 * DAY_S, UTC).replace(minute=0, second=0)
        for n in range(4):
            with freeze_time(hour + timedelta(minutes=n)):
                instance.report_runless_asset_event(dg.AssetMaterialization(VERSION, metadata={"version": n}))
        yield mill, instance


def publish(control, mill, line, n):
    registry, lease = Registry(control, mill.places.models), Leases(control).acquire(line, "test", 60.0)
    for k in range(n):
        info = VersionInfo(kind="update", watermark=k, n_learned=k, digest=f"d{k}")
        version = registry.publish(line, b"model", info, lease)
        old = sa.update(versions).where(versions.c.id == version.id).values(created_at=NOW - 365 * DAY_S + k)
        control.write(lambda c, old=old: c.execute(old))


def run(home, **form):
    """Run the job; return what each step says it did."""
    mill, instance = home
    job = definitions(mill.places, mill.project).resolve_job_def("maintenance")
    done = job.execute_in_process(instance=instance, run_config=form)
    assert done.success
    outputs = [event for event in done.all_events if event.is_successful_output]
    return {event.node_name: {k: v.value for k, v in event.step_output_data.metadata.items()} for event in outputs}


def test_what_is_not_asked_for_is_not_done(home):
    done = run(home, compaction=False, expiry=False, retention=False, events=False)
    assert len(done) == 7
    assert all(said == {} for said in done.values())


def test_a_slip_in_the_form_is_refused_by_name(home):
    with pytest.raises(dg.DagsterInvalidConfigError, match="keep_days"):
        run(home, keep_days=3)


def test_each_step_says_what_it_removed_and_a_second_run_finds_nothing(home):
    mill, instance = home
    old, new, rotated = (
        mill.places.home / "dagster" / "storage" / "run" / "compute_logs" / "old.err",
        mill.places.home / "dagster" / "storage" / "run" / "compute_logs" / "new.err",
        mill.places.home / "services" / "trainer" / "log.1",
    )
    current = rotated.with_name("log")
    for path in (old, new, rotated, current):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("printed\n")
        if path != new:
            os.utime(path, (NOW - 31 * DAY_S,) * 2)

    done = run(home, keep_s=0)
    assert done["compaction"] == {"files_merged": 8}
    assert done["expiry"]["snapshots_expired"] >= 8
    assert done["versions"] == {"versions_removed": 10}
    assert done["heartbeats"] == {"heartbeats_forgotten": 2}
    assert done["events"] == {"events_removed": 2}
    assert done["logs"] == {"files_removed": 2, "bytes_removed": 16}
    assert [path.exists() for path in (old, new, rotated, current)] == [False, True, False, True]
    latest = instance.get_latest_materialization_event(VERSION).asset_materialization
    assert latest.metadata["version"].value == 3
    with Control.open(mill.places.control) as control:
        registry = Registry(control, mill.places.models)
        assert [registry.count(line) for line in (BTC, GONE)] == [FALLBACKS, FALLBACKS]

    again = run(home)
    assert sum(n for said in again.values() for n in said.values()) == 0


def test_a_step_that_fails_makes_the_run_red_and_keeps_no_other_from_its_work(home, tmp_path):
    mill, instance = home
    lost = type(mill)(mill.project, mill.places.model_copy(update={"control_url": f"sqlite:///{tmp_path}"}))
    done = maintenance.execute_in_process(instance=instance, resources={"mill": lost}, raise_on_error=False)
    assert not done.success
    failed = {event.node_name for event in done.all_events if event.is_step_failure}
    assert failed == {"expiry", "versions", "heartbeats"}
    assert {event.node_name for event in done.all_events if event.is_step_success} >= {"compaction", "events", "logs"}
