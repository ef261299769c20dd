import contextlib
import errno
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from domain.errors import ArtifactRefused, BadState, LeaseLost, Unavailable
from warehouse.control import Control
from warehouse.control_tables import versions
from warehouse.files import stage
from warehouse.leases import Leases
from warehouse.refusals import Refusals
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

DATABASES = ("sqlite", "postgresql")
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
    assert second.path.parent == first.path.parent == places.models / "simulated__BTC-USD"
    assert second.path.name.startswith("5-1-"), "examples learned and epoch, then what makes it unique"
    assert (second.offsets, second.metrics, second.snapshot) == ({"features_with_target/0": 5}, {"skill": 0.25}, 3)
    assert second.size == len(b"payload 1")


def test_the_first_version_is_the_oldest_whatever_its_number(registry, lease, control):
    grow(registry, lease, 3)
    assert registry.first(LINE).number == 1
    control.write(lambda c: c.execute(sa.delete(versions).where(versions.c.number < 3)))
    assert registry.first(LINE).number == 3


def test_a_line_without_versions_has_none(registry):
    assert registry.newest(LINE) is None
    assert registry.first(LINE) is None
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
    assert len(versions) == len(acknowledged) > 1
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


def test_the_lines_of_an_instrument_share_one_count_of_versions(registry, lease, control):
    later = Leases(control).acquire(f"{LINE}@2", "trainer", 60)
    other = Leases(control).acquire(f"{LINE}2", "trainer", 60)
    made = [*grow(registry, lease, 2), *grow(registry, later, 2), *grow(registry, lease, 1), *grow(registry, other, 1)]
    assert [(v.line, v.number) for v in made] == [
        (LINE, 1), (LINE, 2), (f"{LINE}@2", 3), (f"{LINE}@2", 4), (LINE, 5), (f"{LINE}2", 1),
    ]  # fmt: skip
    assert registry.newest(LINE).number == 5
    assert registry.before(registry.newest(LINE)).number == 2, "a line's own, not its sister's"
    assert registry.find(LINE, 4) == made[3]
    assert registry.find(LINE, 9) is None


def test_the_file_has_its_name_durably_before_the_row_is_committed(registry, lease, control, monkeypatch):
    """Names and rows survive a power loss in this order only: bytes, name, row.

    And a process that is stopped while it waits for its disk holds no lock that others need.
    """
    grow(registry, lease, 1)
    steps, fsync, rename = [], os.fsync, Path.replace

    def noted_fsync(handle):
        fsync(handle)
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")

    def noted_rename(self, target):
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    for step in ("begin", "commit"):
        sa.event.listen(control._durable, step, lambda _connection, step=step: steps.append(step))
    registry.publish(LINE, b"y", replace(INFO, digest="y"), lease)
    assert steps == ["sync file", "rename", "sync directory", "begin", "commit"]


def test_a_new_directory_is_durable_before_a_file_lies_in_it(places, monkeypatch):
    synced, opened = [], os.open

    def noted_open(path, flags, *mode):
        if Path(path).is_dir():
            synced.append(Path(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", noted_open)
    stage(places.models / "line" / "version", b"x")
    assert set(synced) == {places.home.parent, places.home, places.models}


@pytest.mark.parametrize("call", range(8))
def test_a_publication_that_fails_at_any_step_leaves_a_whole_version_or_none(registry, lease, monkeypatch, call):
    """Each call to the disk fails in turn; what is tried again afterwards is published once."""
    before = grow(registry, lease, 2)
    calls = 0

    def failing(real):
        def fail(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls > call:
                raise OSError(errno.EIO, "the disk is gone")
            return real(*arguments, **named)

        return fail

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(os.fsync))
        broken.setattr(Path, "replace", failing(Path.replace))
        with contextlib.suppress(Unavailable):
            registry.publish(LINE, b"z", replace(INFO, digest="z"), lease)
    assert calls >= min(call + 1, 3)
    version = registry.publish(LINE, b"z", replace(INFO, digest="z"), lease)
    assert (version.number, registry.load(version)) == (3, b"z")
    assert registry.since(0) == [*before, version]
    assert [registry.load(v) for v in before] == [b"payload 0", b"payload 1"]


@pytest.mark.parametrize("why", ["refused", "damaged"])
def test_what_was_learned_again_because_its_version_does_not_load_gets_a_new_number(registry, lease, why):
    grow(registry, lease, 1)
    bad = registry.publish(LINE, b"x", replace(INFO, parent=1), lease)
    if why == "refused":
        registry.refusals.note(LINE, {2: "signed with another key"}, "trainer")
    else:
        bad.path.write_bytes(b"y")
    again = registry.publish(LINE, b"x", replace(INFO, parent=1), lease)
    assert again.number == 3
    assert registry.publish(LINE, b"x", replace(INFO, parent=1), lease) == again
    assert registry.load(again) == b"x"


def test_no_two_publications_share_a_file_whatever_their_epoch_and_content(registry, lease, control, places):
    """So neither a trainer that lost its lock without knowing, nor one that says the same again, can overwrite one."""
    good = registry.publish(LINE, b"x", INFO, lease)
    registry.refusals.note(LINE, {good.number: "torn"}, "trainer")
    again = registry.publish(LINE, b"x", INFO, lease)
    newer = registry.publish(LINE, b"x", replace(INFO, digest="n"), Leases(control).acquire(LINE, "trainer", 60))
    with pytest.raises(LeaseLost):
        registry.publish(LINE, b"older", replace(INFO, digest="o"), lease)
    assert set(good.path.parent.iterdir()) == {good.path, again.path, newer.path}
    assert len({good.path, again.path, newer.path}) == 3
    assert registry.load(newer) == b"x"


def test_what_a_publication_says_again_leaves_no_second_file(registry, lease):
    version = registry.publish(LINE, b"x", INFO, lease)
    assert registry.publish(LINE, b"x", INFO, lease) == version
    assert list(version.path.parent.iterdir()) == [version.path]


def test_a_refusal_is_recorded_once_with_who_why_and_when_until_the_version_loads(registry, lease, control):
    grow(registry, lease, 3)
    refusals = Refusals(control)
    refusals.note(LINE, {3: "torn", 2: "flipped"}, "trainer")
    refusals.note(LINE, {3: "another reason", 9: "no such version"}, "predictor")
    two, three = refusals.since(0)
    assert (two.number, two.reason, two.refused_by) == (2, "flipped", "trainer")
    assert (three.number, three.reason, three.refused_by) == (3, "torn", "trainer")
    assert abs(three.refused_at - registry.get(LINE, 3).created_at) < 60
    assert refusals.since(two.id) == refusals.newest(1) == [three]
    refusals.lift(LINE, 3)
    refusals.lift(LINE, 1)
    assert refusals.newest(9) == [two]
    refusals.note(LINE, {3: "torn again"}, "predictor")
    assert refusals.since(three.id)[0].reason == "torn again", "a cursor sees it"
