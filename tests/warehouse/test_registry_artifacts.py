"""Real artifacts in the registry: what ties a file to its row."""

import os

import pytest
import sqlalchemy as sa

from domain.checkpoint import Checkpoint
from domain.errors import ArtifactRefused, BadState
from domain.fleet import Line
from tests.domain.samples import KEY, LINEAR, MINUTE, RLS, cut, tape_of, walk
from warehouse.control_tables import versions
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

LINE = "simulated:BTC-USD"


@pytest.fixture
def registry(control, places):
    return Registry(control, places.models, KEY)


@pytest.fixture
def publish(registry, control):
    tape, lines, learned = tape_of(walk(5, 400)), {}, {}

    def one(name=LINE, parent=None):
        lease = Leases(control).acquire(name, "trainer", 60)
        line = lines.setdefault(name, Line(name, (RLS, LINEAR)))
        at = learned[name] = learned.get(name, 0) + 150
        line.advance(cut(tape, at - 150, at), at)
        this = Checkpoint(line, MINUTE, 5 * MINUTE, {"features/0": at}, "update", parent, 7, tape.x[:64])
        return registry.publish(name, registry.seal(this), VersionInfo.of(this), lease)

    return one


def rewrite(control, version, **values):
    """Change a version's row, as whoever can write to the database could."""
    control.write(lambda c: c.execute(sa.update(versions).where(versions.c.id == version.id).values(**values)))


def test_a_version_opens_as_it_was_published(registry, publish):
    version = publish()
    assert registry.open(version).line.digest() == version.digest == registry.manifest(version)["digest"]


def test_the_same_file_in_the_place_of_another_is_refused_even_with_its_digest_in_the_row(registry, publish, control):
    first = publish()
    second, other = publish(parent=1), publish("simulated:ETH-USD")
    for foreign in (first, other):
        payload = foreign.path.read_bytes()
        second.path.write_bytes(payload)
        with pytest.raises(ArtifactRefused, match="damaged"):
            registry.open(second)
        rewrite(control, second, sha256=foreign.sha256, size=foreign.size)
        with pytest.raises(ArtifactRefused, match="of another version"):
            registry.open(registry.get(LINE, 2))
        with pytest.raises(ArtifactRefused, match="of another version"):
            registry.manifest(registry.get(LINE, 2))
        rewrite(control, second, sha256=second.sha256, size=second.size)


@pytest.mark.parametrize(
    "values",
    [
        {"parent": 7},
        {"parent": None},
        {"kind": "initial"},
        {"watermark": 1},
        {"n_learned": 1},
        {"snapshot": 8},
        {"offsets": {}},
        {"logs": {"features": "another"}},
        {"begins": 1},
        {"since": 1},
        {"without": [[1, 2]]},
        {"champions": {}},
        {"digest": "0" * 64},
    ],
    ids=str,
)
def test_a_row_that_says_something_else_than_its_file_is_refused(registry, publish, control, values):
    publish()
    version = publish(parent=1)
    rewrite(control, version, **values)
    with pytest.raises(ArtifactRefused, match=f"{next(iter(values))} differ"):
        registry.open(registry.get(LINE, 2))


def test_a_file_that_grew_without_end_costs_no_more_memory_than_the_version(registry, publish):
    version = publish()
    os.truncate(version.path, 2**40)
    with pytest.raises(ArtifactRefused, match="damaged"):
        registry.open(version)


def test_another_key_opens_nothing_and_without_one_versions_can_only_be_listed(registry, publish, control, places):
    version = publish()
    with pytest.raises(ArtifactRefused, match="another key"):
        Registry(control, places.models, b"other").open(version)
    keyless = Registry(control, places.models)
    assert keyless.newest(LINE) == version
    with pytest.raises(BadState, match="without the key"):
        keyless.open(version)
