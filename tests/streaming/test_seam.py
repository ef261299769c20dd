"""Taking a line up: the newest version that is good, whatever became of the newer ones, and each refusal on record."""

import os
from dataclasses import fields
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from domain.checkpoint import Checkpoint
from domain.config import Places
from domain.errors import ArtifactRefused, Unavailable, UsageError
from domain.fleet import Line
from streaming.seam import newest_good, seam_of
from tests.domain.samples import KEY, LINEAR, MINUTE, RLS, cut, tape_of, walk
from warehouse.control import Control
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

LINE = "simulated:BTC-USD"
TAPE = tape_of(walk(5, 400))
SEAM = 300


@pytest.fixture
def places(tmp_path):
    return Places(home=tmp_path)


@pytest.fixture
def control(places):
    with Control.open(places.control) as control:
        yield control


@pytest.fixture
def registry(control, places):
    return Registry(control, places.models, KEY)


@pytest.fixture
def line():
    line = Line(LINE, (RLS, LINEAR))
    line.advance(cut(TAPE, 0, SEAM), SEAM)
    line.freeze()
    return line


@pytest.fixture
def publish(registry, control, line):
    """Publish the line as it goes on, with a key of one's choice; return the version."""

    def one(key=KEY):
        lease = Leases(control).acquire(LINE, "trainer", 60)
        newest = registry.newest(LINE)
        kind, parent = ("update", newest.number) if newest else ("initial", None)
        at = line.watermark
        line.advance(cut(TAPE, at, at + 20), at + 20)
        this = Checkpoint(line, MINUTE, 5 * MINUTE, {}, kind, parent, None, TAPE.x[:64])
        return registry.publish(LINE, this.to_bytes(key), VersionInfo.of(this), lease)

    return one


def missing(path):
    path.unlink()


def torn(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def header_flipped(path):
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)


def directory(path):
    path.unlink()
    path.mkdir()


def loop(path):
    path.unlink()
    path.symlink_to(path)


def older(path):
    first = next(path.parent.glob("*-1-*"))  # of the first lease
    path.write_bytes(first.read_bytes())


DAMAGES = [missing, torn, empty, flipped, header_flipped, directory, loop, older]


def test_without_any_version_it_says_what_to_do(registry):
    for ask in (lambda: seam_of(registry, LINE), lambda: newest_good(registry, LINE, "trainer")):
        with pytest.raises(UsageError, match="has no model yet"):
            ask()


def test_the_newest_version_is_taken_and_nothing_is_refused(registry, publish):
    publish()
    newest = publish()
    version, checkpoint = newest_good(registry, LINE, "trainer")
    assert (version, checkpoint.line.digest()) == (newest, newest.digest)
    assert registry.refusals.newest(9) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_newest_version_is_refused_by_name_and_the_one_before_it_serves(registry, publish, damage):
    publish()
    good, bad = publish(), publish()
    damage(bad.path)
    with capture_logs() as logs:
        version, checkpoint = newest_good(registry, LINE, "predictor")
    assert (version, checkpoint.line.digest()) == (good, good.digest)
    [said] = logs
    assert (said["event"], said["service"], said["version"], said["instead"]) == ("version refused", "predictor", 3, 2)
    [refusal] = registry.refusals.newest(9)
    assert (refusal.line, refusal.number, refusal.refused_by) == (LINE, 3, "predictor")
    assert refusal.reason == said["reason"]
    assert seam_of(registry, LINE) == SEAM


def test_every_kind_of_damage_at_once_is_passed_by(registry, publish):
    publish()
    good = publish()
    bad = [publish() for _ in DAMAGES]
    wrong_key = publish(key=b"another key")
    for damage, version in zip(DAMAGES, bad, strict=True):
        damage(version.path)
    assert newest_good(registry, LINE, "trainer")[0] == good
    assert seam_of(registry, LINE) == SEAM
    assert {r.number for r in registry.refusals.newest(99)} == {*(v.number for v in bad), wrong_key.number}


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ZeroDivisionError, AttributeError, UsageError])
def test_a_version_that_fails_here_in_any_way_is_passed_by(registry, publish, monkeypatch, error):
    """As an estimator of River may that was pickled by another release of it."""
    good, restored, restore = publish(), [], Line.restore
    publish()

    def failing(self, arrays):
        restored.append(self)
        if len(restored) == 1:
            raise error("it was made by another release")
        restore(self, arrays)

    monkeypatch.setattr(Line, "restore", failing)
    assert newest_good(registry, LINE, "trainer")[0] == good
    assert "made by another release" in registry.refusals.newest(1)[0].reason


def test_when_no_version_loads_it_says_so_and_records_each(registry, publish):
    for _ in range(3):
        flipped(publish().path)
    with pytest.raises(ArtifactRefused, match=r"none of 3 versions loads; the newest: .* version 3"):
        newest_good(registry, LINE, "trainer")
    with pytest.raises(ArtifactRefused, match="none of 3"):
        seam_of(registry, LINE)
    assert {r.number for r in registry.refusals.newest(9)} == {1, 2, 3}


def test_with_another_key_nothing_loads_and_with_the_old_one_back_everything_does(registry, publish, control, places):
    publish()
    newest = publish()
    with pytest.raises(ArtifactRefused, match="another key"):
        newest_good(Registry(control, places.models, b"other"), LINE, "trainer")
    assert {r.number for r in registry.refusals.newest(9)} == {1, 2}
    assert newest_good(registry, LINE, "trainer")[0] == newest
    assert {r.number for r in registry.refusals.newest(9)} == {1}, "what loads is refused no longer"


def test_a_process_out_of_file_handles_refuses_no_version(registry, publish, monkeypatch):
    publish()

    def exhausted(*_arguments, **_named):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("pathlib.Path.open", exhausted)
    with pytest.raises(Unavailable, match="Too many open files"):
        newest_good(registry, LINE, "trainer")
    assert registry.refusals.newest(9) == []


def test_a_good_version_serves_where_refusals_cannot_be_written_down(registry, publish):
    good = publish()
    torn(publish().path)

    def down(*_arguments):
        raise Unavailable("the control database is locked; wait")

    registry.refusals = SimpleNamespace(note=down, lift=down)
    with capture_logs() as logs:
        assert newest_good(registry, LINE, "trainer")[0] == good
    assert [entry["event"] for entry in logs] == ["version refused", "refusals not recorded"]


def test_what_is_learned_again_after_a_refusal_is_published_and_serves(registry, publish, control, line):
    """The trainer goes back to the version before, learns the same once more and says the same."""
    good, bad = publish(), publish()
    payload = bad.path.read_bytes()
    torn(bad.path)
    version, _ = newest_good(registry, LINE, "trainer")
    assert version == good
    info = VersionInfo(**{f.name: getattr(bad, f.name) for f in fields(VersionInfo)})
    again = registry.publish(LINE, payload, info, Leases(control).acquire(LINE, "trainer", 60))
    assert again.number == 3
    assert newest_good(registry, LINE, "predictor")[0] == again
