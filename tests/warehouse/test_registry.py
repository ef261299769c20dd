import threading
from dataclasses import replace

import pytest

from domain.errors import ArtifactRefused, BadState, LeaseLost
from warehouse.control import Control
from warehouse.leases import Leases
from warehouse.registry import Registry, VersionInfo

LINE = "simulated:BTC-USD"
INFO = VersionInfo(
    kind="update",
    parent=None,
    watermark=9,
    n_learned=5,
    snapshot=3,
    offsets={"features_with_target/0": 5},
    digest="d",
    metrics={"skill": 0.25},
)


@pytest.fixture
def registry(control, places):
    return Registry(control, places.models)


@pytest.fixture
def lease(control):
    return Leases(control).acquire(LINE, "trainer", 60)


def grow(registry, lease, n, kind="update"):
    made = []
    for _ in range(n):
        newest = registry.newest(lease.line)
        number = newest.number if newest else 0
        info = replace(INFO, kind=kind, parent=number or None, digest=f"d{number}")
        made.append(registry.publish(lease.line, f"payload {number}".encode(), info, lease))
    return made


def test_versions_are_numbered_from_one_and_come_back_as_published(registry, lease, places):
    first, second = grow(registry, lease, 2)
    assert (first.number, second.number, second.parent) == (1, 2, 1)
    assert registry.newest(LINE) == second == registry.get(LINE, 2)
    assert registry.load(first) == b"payload 0"
    assert second.path == places.models / "simulated__BTC-USD" / "2.safetensors"
    assert (second.offsets, second.metrics, second.snapshot) == ({"features_with_target/0": 5}, {"skill": 0.25}, 3)
    assert second.size == len(b"payload 1")


def test_a_line_without_versions_has_none(registry):
    assert registry.newest(LINE) is None
    assert registry.get(LINE, 1) is None
    assert registry.count(LINE) == 0


def test_what_is_published_again_after_a_crash_is_the_version_that_exists(registry, lease):
    first = registry.publish(LINE, b"x", INFO, lease)
    assert registry.publish(LINE, b"x", INFO, lease) == first
    assert registry.count(LINE) == 1
    assert registry.publish(LINE, b"x", replace(INFO, watermark=10), lease).number == 2
    assert registry.publish(LINE, b"x", replace(INFO, parent=1), lease).number == 3


def test_a_lost_lease_publishes_nothing_and_leaves_no_artifact(registry, lease, control, places):
    Leases(control).acquire(LINE, "trainer", 60)  # the same owner, started again
    with pytest.raises(LeaseLost):
        registry.publish(LINE, b"x", INFO, lease)
    assert registry.count(LINE) == 0
    assert list((places.models / "simulated__BTC-USD").iterdir()) == []


def test_a_lease_of_another_line_publishes_nothing(registry, lease):
    with pytest.raises(BadState, match="cannot publish"):
        registry.publish("simulated:ETH-USD", b"x", INFO, lease)


def test_of_two_trainers_on_one_line_exactly_one_publishes(control, places):
    """Both believe they hold the lease; both publish at the same instant, many times over."""
    for k in range(10):
        old = Leases(control).acquire(LINE, f"old-{k}", 0.0)
        new = Leases(control).acquire(LINE, f"new-{k}", 0.0)
        barrier, outcomes = threading.Barrier(2), {}

        def publish(lease, barrier=barrier, outcomes=outcomes):
            with Control.open(places.control) as mine:
                barrier.wait()
                try:
                    info = replace(INFO, digest=f"{lease.owner}")
                    outcomes[lease.owner] = Registry(mine, places.models).publish(LINE, b"x", info, lease).number
                except LeaseLost:
                    outcomes[lease.owner] = None

        threads = [threading.Thread(target=publish, args=(lease,)) for lease in (old, new)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == {f"old-{k}": None, f"new-{k}": k + 1}


def check_whole(registry, children):
    """Numbers without a gap, every artifact as its row says, every acknowledged version there."""
    versions = registry.since(0, 1_000)
    assert [v.number for v in versions] == list(range(1, len(versions) + 1))
    assert [v.id for v in versions] == sorted(v.id for v in versions)
    for version in versions:
        registry.load(version)
    acknowledged = {s["number"]: s["sha256"] for child in children for s in child["said"] if "number" in s}
    assert {v.number: v.sha256 for v in versions}.items() >= acknowledged.items()
    return versions, acknowledged


def test_processes_that_steal_the_lease_from_each_other_keep_one_history(processes, registry):
    children = processes("publish")
    versions, acknowledged = check_whole(registry, children)
    assert len(versions) == len(acknowledged) > 5
    assert any("lost" in said for child in children for said in child["said"])


def test_trainers_killed_at_random_moments_leave_whole_versions_only(processes, registry):
    children = processes("publish-killed")
    assert [child["status"] for child in children].count(-9) >= 2
    check_whole(registry, children)


@pytest.mark.parametrize("damage", ["torn", "flipped", "missing"])
def test_a_damaged_artifact_is_refused(registry, lease, damage):
    version = registry.publish(LINE, bytes(range(256)), INFO, lease)
    payload = bytearray(version.path.read_bytes())
    if damage == "torn":
        version.path.write_bytes(payload[:100])
    elif damage == "flipped":
        payload[77] ^= 1
        version.path.write_bytes(payload)
    else:
        version.path.unlink()
    with pytest.raises(ArtifactRefused, match="version 1"):
        registry.load(version)


def test_a_cursor_sees_every_version_of_every_line_once(registry, lease, control):
    other = Leases(control).acquire("simulated:ETH-USD", "trainer", 60)
    made = [*grow(registry, lease, 2), *grow(registry, other, 2), *grow(registry, lease, 1)]
    seen, cursor = [], 0
    while batch := registry.since(cursor, limit=2):
        seen += batch
        cursor = batch[-1].id
    assert seen == made


def test_an_alias_moves_only_from_where_it_was_expected(registry, lease):
    grow(registry, lease, 3)
    assert registry.alias(LINE, "champion") is None
    assert registry.set_alias(LINE, "champion", 1, expected=None)
    assert not registry.set_alias(LINE, "champion", 2, expected=None)
    assert not registry.set_alias(LINE, "champion", 3, expected=2)
    assert registry.set_alias(LINE, "champion", 2, expected=1)
    assert registry.alias(LINE, "champion") == 2
    with pytest.raises(BadState, match="no version 9"):
        registry.set_alias(LINE, "champion", 9, expected=2)


def test_pruning_keeps_the_newest_the_initial_and_the_named(registry, lease):
    first = grow(registry, lease, 1, kind="initial")[0]
    rest = grow(registry, lease, 5)
    registry.set_alias(LINE, "champion", 3, expected=None)
    assert registry.prune(LINE, keep_last=2) == [2, 4]
    assert [v.number for v in registry.since(0)] == [1, 3, 5, 6]
    assert [v.path.exists() for v in (first, *rest)] == [True, False, True, False, True, True]
    assert registry.prune(LINE, keep_last=0) == [5]
    assert grow(registry, lease, 1)[0].number == 7
