"""Retention on a real database and directory: what is protected stays, rows go before files, orphans are swept."""

import os
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from domain.errors import LeaseLost
from domain.health import Beat
from warehouse import retention
from warehouse.control import database_now, upsert
from warehouse.control_tables import pins, versions
from warehouse.heartbeats import Heartbeats
from warehouse.leases import Leases
from warehouse.retention import FALLBACKS, PRUNE_S, SWEEP_S, Retention, holder_of, lines, prune, sweep
from warehouse.roles import Roles
from warehouse.versions import VersionInfo

DATABASES = ("sqlite", "postgresql")
LINE, OTHER = "simulated:BTC-USD", "simulated:BTC-USD2"
INFO = VersionInfo(kind="update", watermark=9, n_learned=5, digest="d")
YEAR_S = 365 * 86_400.0


def grow(registry, lease, n, kind="update", aged=YEAR_S):
    """Publish some versions that look as if they had been published so long ago, a second apart."""
    made = []
    for k in range(n):
        version = registry.publish(lease.line, b"x", replace(INFO, kind=kind, digest=f"{kind}{k}{aged}"), lease)
        made.append(version)
        age = {"created_at": version.created_at - aged + k}
        mine = versions.c.id == version.id
        registry._control.write(lambda c, mine=mine, age=age: c.execute(sa.update(versions).where(mine).values(**age)))
    return made


def numbers(registry):
    return [version.number for version in registry.since(0, 100_000) if version.line == LINE]


def test_old_versions_go_with_their_files_and_the_newest_and_initial_ones_stay(registry, lease, control, places):
    made = [*grow(registry, lease, 1, "initial"), *grow(registry, lease, 20)]
    assert prune(control, places.models, LINE) == list(range(2, 12))
    assert numbers(registry) == [1, *range(12, 22)]
    assert [v.number for v in made if v.path.exists()] == [1, *range(12, 22)]
    assert prune(control, places.models, LINE) == []


def test_what_is_younger_than_an_hour_stays(registry, lease, control, places):
    grow(registry, lease, 30, aged=3_000)
    assert prune(control, places.models, LINE) == []


def test_what_is_held_served_or_pinned_stays(registry, lease, control, places):
    grow(registry, lease, 30)
    Roles(control).hold(LINE, 3, "better")
    now = time.time()
    beat = Beat("predictor", "a", 1, "running", 0, {}, 1, now, 0, ready=True, beat_at=now, started_at=now)
    assert Heartbeats(control).beat(replace(beat, detail={"version": {LINE: 5, OTHER: 6}}))
    assert Heartbeats(control).beat(replace(beat, instance="b", detail={"version": {LINE: 7}}))
    assert Heartbeats(control).beat(replace(beat, service="ingest", detail={"version": "1.0"}))

    def pin(holder, until):
        control.write(lambda c: upsert(c, pins, {"holder": holder, "snapshot": 1}, {"until": until}))

    pin(holder_of(LINE, 9), None)
    pin(holder_of(LINE, 11), database_now() + 60)
    pin(holder_of(LINE, 12), database_now() - 60)
    pin(holder_of(OTHER, 13), None)
    pin(f"initial/{LINE}", None)
    prune(control, places.models, LINE)
    assert numbers(registry) == [3, 5, 7, 9, 11, *range(21, 31)]


def test_lines_are_pruned_apart(registry, lease, control, places):
    grow(registry, lease, 20)
    grow(registry, Leases(control).acquire(OTHER, "trainer", 60), 20)
    prune(control, places.models, OTHER)
    assert numbers(registry) == list(range(1, 21))
    assert registry.count(OTHER) == FALLBACKS


def test_lines_are_known_by_their_versions(registry, lease, control):
    assert lines(control) == []
    grow(registry, lease, 2)
    grow(registry, Leases(control).acquire(OTHER, "trainer", 60), 1)
    assert lines(control) == [LINE, OTHER]


def test_refusals_go_with_their_versions(registry, lease, control, places):
    grow(registry, lease, 20)
    registry.refusals.note(LINE, {2: "torn", 15: "torn"}, "trainer")
    prune(control, places.models, LINE)
    assert [refusal.number for refusal in registry.refusals.newest(9)] == [15]


def test_many_go_in_bounded_steps_and_protected_ones_at_the_front_stop_nothing(
    registry, lease, control, places, monkeypatch
):
    monkeypatch.setattr(retention, "AT_ONCE", 7)
    grow(registry, lease, 40)
    for number in range(1, 10):
        key = {"holder": holder_of(LINE, number), "snapshot": 1}
        control.write(lambda c, key=key: upsert(c, pins, key, {"until": None}))
    assert prune(control, places.models, LINE) == list(range(10, 17))
    while prune(control, places.models, LINE):
        pass
    assert numbers(registry) == [*range(1, 10), *range(31, 41)]


def test_killed_between_row_and_file_it_leaves_a_file_without_a_row_that_the_next_sweep_removes(
    registry, lease, control, places, monkeypatch
):
    made = grow(registry, lease, 15)

    class Killed(BaseException):
        pass

    def kill(*_arguments, **_named):
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr("pathlib.Path.unlink", kill)
        with pytest.raises(Killed):
            prune(control, places.models, LINE)
    assert numbers(registry) == list(range(6, 16))
    assert all(version.path.exists() for version in made)
    assert sweep(control, places.models, lease) == sorted(version.path for version in made[:5])
    assert [version.path.exists() for version in made] == [False] * 5 + [True] * 10


def test_a_sweep_removes_what_killed_publishers_left_and_nothing_that_is_on_its_way(registry, lease, control, places):
    version = grow(registry, lease, 1)[0]
    folder = version.path.parent
    orphan, old, young = folder / "2-1.safetensors", folder / ".version.dead", folder / ".version.alive"
    for path in (orphan, old, young):
        path.write_bytes(b"x")
    long_ago = time.time() - 2 * retention.IN_FLIGHT_S
    os.utime(old, (long_ago, long_ago))
    assert sweep(control, places.models, lease) == [old, orphan]
    assert sorted(folder.iterdir()) == [young, version.path]
    assert registry.load(version) == b"x"


def test_a_sweep_under_a_lost_lease_removes_nothing(registry, lease, control, places):
    version = grow(registry, lease, 1)[0]
    orphan = version.path.with_name("9-1.safetensors")
    orphan.write_bytes(b"x")
    Leases(control).acquire(LINE, "trainer", 60)
    with pytest.raises(LeaseLost):
        sweep(control, places.models, lease)
    assert orphan.exists()


def test_a_trainer_prunes_once_a_minute_and_sweeps_once_an_hour_and_neither_as_it_starts(
    registry, lease, control, places
):
    made = grow(registry, lease, 12)
    upkeep = Retention(control, places.models)
    orphan = made[0].path.with_name("99-1.safetensors")
    orphan.write_bytes(b"x")
    upkeep.turn(lease, 1_000.0)
    upkeep.turn(lease, 1_000.0 + PRUNE_S / 2)
    assert (registry.count(LINE), orphan.exists()) == (12, True)
    upkeep.turn(lease, 1_000.0 + PRUNE_S)
    assert (registry.count(LINE), orphan.exists()) == (FALLBACKS, False)
    orphan.write_bytes(b"x")
    grow(registry, lease, 1, aged=2 * YEAR_S)
    upkeep.turn(lease, 1_000.0 + 2 * PRUNE_S)
    assert (registry.count(LINE), orphan.exists()) == (FALLBACKS, True)
    upkeep.turn(lease, 1_000.0 + PRUNE_S + SWEEP_S)
    assert not orphan.exists()
