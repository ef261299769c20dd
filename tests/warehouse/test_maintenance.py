import os
import time

import numpy as np
import pytest

from domain.errors import BadState
from domain.features import FEATURES, VectorRecord
from warehouse import features, landing, maintenance, tables
from warehouse.lake import Lake

ALL_TIME = (0, 2**62)
BTC = "simulated:BTC-USD"


def land_small(lake, commits):
    for k in range(commits):
        rows = tables.records_to_rows("features", [VectorRecord(BTC, 1 + k, *[float(k)] * len(FEATURES))], [k])
        landing.land(lake, [landing.Batch("features", "features", 0, rows, k + 1)])


def live_files(lake, table="features"):
    return lake.query("SELECT data_file FROM ducklake_list_files('lake', ?)", [table]).num_rows


def test_small_files_become_one_and_the_rows_stay(lake, control):
    land_small(lake, 12)
    before = features.read_table(lake, "features", BTC, *ALL_TIME)
    assert live_files(lake) == 12
    assert maintenance.tidy(lake, control).merged_files == 12
    assert live_files(lake) == 1
    after = features.read_table(lake, "features", BTC, *ALL_TIME)
    assert np.array_equal(before.values, after.values)
    assert maintenance.tidy(lake, control) == maintenance.Tidied(0, 0, 0)


def test_the_offsets_stay_one_small_file_however_often_they_move(lake):
    land_small(lake, 6)
    assert live_files(lake, "consumer_offsets") == 1
    assert not list((lake.data / "main" / "consumer_offsets").glob("*delete*"))


def test_a_pinned_snapshot_survives_replacement_merge_expiry_and_cleanup(lake, control, places, history):
    past = history(2_000)
    rows = tables.vectors_to_rows(BTC, past.vectors, "backfill")
    features.replace_window(lake, "features", BTC, *ALL_TIME, rows, "first")
    snapshot = maintenance.pin(lake, control, "training-1")
    later = history(1_000, seed=1)
    for _ in range(3):
        rows = tables.vectors_to_rows(BTC, later.vectors, "backfill")
        features.replace_window(lake, "features", BTC, *ALL_TIME, rows, "again")
        maintenance.tidy(lake, control, keep_s=0.0)
    # What the two days of grace would allow later, now:
    lake.write(lambda c: c.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)").fetchall())
    assert lake.query("SELECT snapshot_id FROM lake.snapshots()")["snapshot_id"].to_pylist() == [
        snapshot,
        lake.snapshot(),
    ]
    with Lake.open(places, read_only=True) as reader:
        pinned = features.read_table(reader, "features", BTC, *ALL_TIME, snapshot=snapshot)
    assert np.array_equal(pinned.values, past.vectors.values)
    assert np.array_equal(pinned.ts, past.vectors.ts)


def test_an_expired_snapshot_is_refused_and_not_silently_another(lake, control):
    land_small(lake, 3)
    old = lake.snapshot() - 1
    assert maintenance.tidy(lake, control, keep_s=0.0).expired_snapshots > 0
    with pytest.raises(BadState, match="expired"):
        features.count(lake, "features", BTC, *ALL_TIME, snapshot=old)


def test_young_snapshots_are_kept(lake, control):
    land_small(lake, 3)
    assert maintenance.tidy(lake, control, keep_s=3_600).expired_snapshots == 0


def test_pins_end_when_given_up_or_run_out(lake, control):
    first = maintenance.pin(lake, control, "a")
    maintenance.pin(lake, control, "b", ttl_s=-1.0)
    assert maintenance.pinned(control) == {first}
    maintenance.unpin(control, "a")
    assert maintenance.pinned(control) == set()


def test_a_pin_taken_again_is_prolonged(lake, control):
    snapshot = maintenance.pin(lake, control, "a", ttl_s=-1.0)
    assert maintenance.pin(lake, control, "a", ttl_s=60.0) == snapshot
    assert maintenance.pinned(control) == {snapshot}


def test_only_old_orphans_are_swept(lake, history):
    past = history(10)
    rows = tables.vectors_to_rows(BTC, past.vectors, "backfill")
    old, young = (next(features._staged(lake, "features", rows)) for _ in range(2))
    four_days_ago = time.time() - 4 * 86_400
    os.utime(old, (four_days_ago, four_days_ago))
    land_small(lake, 1)
    assert maintenance.sweep(lake) == 1
    assert (old.exists(), young.exists()) == (False, True)
    assert features.count(lake, "features", BTC, *ALL_TIME) == 1


def test_spilled_rows_of_dead_processes_are_swept(lake):
    dead, own = lake.root / "tmp" / "4194305-ab", lake.root / "tmp" / f"{os.getpid()}-cd"  # beyond the largest pid
    for folder in (dead, own):
        folder.mkdir(parents=True)
        (folder / "spill").write_bytes(b"x")
    maintenance.sweep(lake)
    assert (dead.exists(), own.exists()) == (False, True)
