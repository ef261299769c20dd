"""An instrument that joins a market which goes on has its own history and line, and nothing of the others changes."""

from __future__ import annotations

import time

import dagster as dg
import pytest

from assets.partitions import INSTRUMENTS, history_of
from assets.resources import Mill
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE, NANOS_PER_SECOND
from domain.health import Beat
from orchestration.definitions import definitions
from orchestration.sensors import bootstrap_sensor
from orchestration.settings import Opening, read_project
from tests.mills import TOML, days, mill_at
from tests.orchestration.ticks import requests
from warehouse.control import Control
from warehouse.features import read_table, span
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry

BTC, ETH = "simulated:BTC-USD", "simulated:ETH-USD"
ALONE = TOML.replace(f', "{ETH}"', "")
HOURS = 7 * 60 * NANOS_PER_MINUTE


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A mill of one instrument whose market has gone on for hours, when a second one is added to its configuration."""
    home = tmp_path_factory.mktemp("mill")
    before = mill_at(home, ALONE)
    with dg.DagsterInstance.ephemeral() as instance:
        defs = definitions(before.places, before.project)
        for job in ("backfill", "train"):
            assert defs.resolve_job_def(job).execute_in_process(instance=instance, tags=days()).success
        clock = before.project.market.opens_ns + HOURS + 17 * NANOS_PER_SECOND
        stands(before, clock)
        mill = mill_at(home)
        yield mill, instance, clock


def stands(mill, clock):
    now = time.time()
    beat = Beat("featurizer", "test", 1, "running", 0, {}, 1, now, 0, ready=True, beat_at=now, started_at=now,
                detail={"watermark": clock})  # fmt: skip
    with Control.open(mill.places.control) as control:
        assert Heartbeats(control).beat(beat)


def asked(mill, tick):
    [request] = requests(tick(bootstrap_sensor(mill.places, history_of(mill.project))))
    return request.tags


def test_it_is_asked_for_alone_from_where_the_market_is(grown, tick):
    mill, _, clock = grown
    tags = asked(mill, tick)
    assert tags[INSTRUMENTS] == ETH
    # 2025-01-03 07:00 less two days: in whole days of partitions.
    assert (tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]) == (
        "2025-01-01", "2025-01-03",
    )  # fmt: skip
    project = read_project(mill.places)
    assert history_of(project, ETH).until == clock // NANOS_PER_MINUTE * NANOS_PER_MINUTE
    assert history_of(project, ETH).start == history_of(project, ETH).until - 2 * NANOS_PER_DAY
    assert history_of(project, BTC) == history_of(project)
    assert Opening.of(mill.places).source == "simulated"


def test_asked_again_later_it_still_joins_where_it_first_did(grown, tick):
    mill, _, clock = grown
    first = asked(mill, tick)
    stands(mill, clock + HOURS)
    tick.cursors.clear()
    assert asked(mill, tick) == first


def test_it_gets_its_own_history_and_line_and_the_other_keeps_every_row_and_version(grown, tick):
    mill, instance, _ = grown
    tags = asked(mill, tick)
    mill = Mill(read_project(mill.places), mill.places)
    seam = history_of(mill.project, ETH).until
    with mill.lake() as lake:
        rows = {table: read_table(lake, table, BTC, 0, 2**62) for table in ("bars", "features")}
    defs = definitions(mill.places, mill.project)
    for job in ("backfill", "train"):
        assert defs.resolve_job_def(job).execute_in_process(instance=instance, tags=tags).success
    with mill.lake() as lake:
        assert span(lake, "bars", ETH) == (seam - 2 * NANOS_PER_DAY + NANOS_PER_MINUTE, seam)
        for table, known in rows.items():
            now = read_table(lake, table, BTC, 0, 2**62)
            assert (now.ts.tolist(), now.values.tobytes()) == (known.ts.tolist(), known.values.tobytes())
    with mill.control() as control:
        registry = Registry(control, mill.places.models)
        assert (registry.count(BTC), registry.count(ETH)) == (1, 1)
        assert registry.newest(ETH).watermark == seam
        assert registry.newest(BTC).watermark == history_of(mill.project).until
    assert "2025-01-03" in instance.get_materialized_partitions(dg.AssetKey("bars"))
