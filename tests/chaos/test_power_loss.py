"""Whatever of a publish the power lets through to the disk: what was acknowledged is there, and nothing torn is loaded.

Each story lets the real code work while every call that it makes of the system is recorded, and hands every state that
a disk may be in at any moment to the real loader. That the enumeration can see anything is proved by taking away one
sync after the other, and by writing in place.
"""

import functools
import itertools
import os
import struct
from dataclasses import replace

import pytest
import sqlalchemy as sa
import structlog
from crc32c import crc32c

from streaming.devbroker import files as broker_files
from streaming.devbroker.batches import CRC_START, HEADER, whole
from streaming.devbroker.log import PartitionLog
from streaming.devbroker.offsets import Committed, CommittedOffsets
from streaming.devbroker.settings import log_settings
from streaming.devbroker.topics import Topics
from tests.chaos.disk import TORN, Acknowledged, Named, Recorder, Synced, enumerate_states
from warehouse.control import Control
from warehouse.files import write_atomic
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo


def body(number):
    """A state of about 6,000 bytes, each 512 of them different, each unlike that of any other number."""
    return b"".join(f"{number}.{i};".encode() for i in range(900 + number))


class Story:
    def __init__(self, saves):
        self.saves = saves

    @staticmethod
    def ignores(path):
        """Whether the file has a temporary name: ``.name.unique`` in the warehouse, ``name.new`` in the dev broker."""
        return "/." in path or path.endswith(".new")

    @staticmethod
    def spare(events, at):
        """Whether nothing is promised before the same file or directory is synced again."""
        later = itertools.takewhile(lambda event: not isinstance(event, Acknowledged), events[at + 1 :])
        return events[at] in list(later)


class Atomic(Story):
    """``write_atomic``: the featurizer's state, the key, in a directory that is made for them."""

    save = staticmethod(write_atomic)

    def record(self, recorder, _elsewhere):
        for number in range(1, self.saves + 1):
            self.save(recorder.root / "home" / "state" / "file", body(number))
            recorder.acknowledge(number)

    def load(self, root):
        path = root / "home" / "state" / "file"
        known = {body(number): number for number in range(1, self.saves + 1)}
        return known.get(path.read_bytes(), TORN) if path.exists() else 0


class InPlace(Atomic):
    @staticmethod
    def save(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        broker_files.sync_directory(path.parent)


class Artifacts(Story):
    """Versions of the registry: once its row is committed, an artifact is whole."""

    LINE = "simulated:BTC-USD"

    def record(self, recorder, elsewhere):
        self.versions = []
        with Control.open(f"sqlite:///{elsewhere / 'control.db'}") as control:
            lease = Leases(control).acquire(self.LINE, "trainer", 60)
            registry = Registry(control, recorder.root / "models")
            self.registry = registry
            publishing = [0]

            def committing(_connection):
                folder = recorder.root / "models" / "simulated__BTC-USD"
                if any(folder.glob(f"{publishing[0]}-{lease.epoch}-*.safetensors")):
                    recorder.acknowledge(publishing[0])  # from here on its row may be seen

            sa.event.listen(sa.Engine, "commit", committing)
            try:
                for number in range(1, self.saves + 1):
                    publishing[0] = number
                    info = VersionInfo(
                        kind="update", watermark=number, n_learned=number, digest=f"{number}", parent=number - 1 or None
                    )
                    self.versions.append(registry.publish(self.LINE, body(number), info, lease))
            finally:
                sa.event.remove(sa.Engine, "commit", committing)

    def load(self, root):
        for version in self.versions:
            path = root / "models" / version.path.parent.name / version.path.name
            try:
                payload = self.registry.load(replace(version, path=path))
            except Exception:  # noqa: BLE001 - refused: the versions before it are what there is
                return version.number - 1
            if payload != body(version.number):
                return TORN
        return len(self.versions)


class Catalog(Story):
    """The topics of the dev broker: made, widened, deleted; producer ids given out."""

    def record(self, recorder, _elsewhere):
        with broker_files.locked(recorder.root / "data"):
            self._record(recorder)

    def _record(self, recorder):
        topics = Topics(recorder.root / "data", "always")
        steps = [lambda n=n: topics.create(f"topic-{n}", 1 + n % 2, {"retention.ms": "1000"}) for n in range(4)]
        steps += [lambda: topics.delete("topic-1"), topics.new_producer, lambda: topics.widen("topic-2", 4)]
        self.history = [self.state(topics)]
        for number, step in enumerate(steps, 1):
            step()
            self.history.append(self.state(topics))
            recorder.acknowledge(number)
        topics.close()

    @staticmethod
    def state(topics):
        return sorted((topic.name, topic.id, topic.partitions) for topic in topics), topics._reserved_producers

    @staticmethod
    def spare(events, at):
        """Count only the catalog and its directory: logs that are empty yet are made again where they are missing."""
        changes = [event for event in events if isinstance(event, Named)]
        named = {change.directory: dict(change.names) for change in changes}
        home = next(change.directory for change in changes if "catalog.json" in dict(change.names))
        return Story.spare(events, at) or (events[at].inode in named and events[at].inode != home)

    def load(self, root):
        (root / "data").mkdir(exist_ok=True)
        topics = Topics(root / "data", "never")
        state = self.state(topics)
        topics.close()
        return self.history.index(state) if state in self.history else TORN


def made_batch(records, timestamp):
    data = bytearray(HEADER.pack(0, 49 + len(records), -1, 2, 0, 0, 0, timestamp, timestamp, -1, -1, -1, 1) + records)
    struct.pack_into(">I", data, CRC_START - 4, crc32c(bytes(data[CRC_START:])))
    return bytes(data)


class Log(Story):
    """The log of a partition with ``fsync=always``: appended, rolled over, its old segments dropped."""

    SETTINGS = log_settings({"segment.bytes": "12000", "retention.ms": "1000"})

    def record(self, recorder, _elsewhere):
        log = PartitionLog(recorder.root / "topics" / "topic" / "0", self.SETTINGS, "always")
        self.batches = [made_batch(body(n)[:5000], 10_000 * n) for n in range(12)]
        for number, batch in enumerate(self.batches, 1):
            log.append(memoryview(batch))
            recorder.acknowledge(number)
            if number == 7:  # two segments back
                assert log.expire(10_000 * 3 + 1_500)
        assert log.expire(10**9)  # all of it: a new segment carries the offsets on
        recorder.acknowledge(len(self.batches))
        log.close()

    def load(self, root):
        log = PartitionLog(root / "topics" / "topic" / "0", self.SETTINGS, "never")
        try:
            at = log.start
            while found := log.slice(at, 1 << 20):
                data, position = found.read(), 0
                while position < len(data):
                    header = whole(data, position, len(data))
                    batch = self.batches[header.base_offset]
                    if header is None or data[position + 21 : position + header.size] != batch[21:]:
                        return TORN
                    position += header.size
                    at = header.next_offset
            return log.end
        finally:
            log.close()


class Offsets(Story):
    """Committed offsets with ``fsync=always``, rewritten now and then."""

    def record(self, recorder, _elsewhere):
        committed = CommittedOffsets(recorder.root / "offsets.log", "always")
        for number in range(1, 17):
            committed.commit(
                "group", {("topic", 0): Committed(number, -1, "x" * 4000), ("topic", 1): Committed(number, -1, "")}
            )
            recorder.acknowledge(number)
            if number % 5 == 0:
                committed._compact()

    def load(self, root):
        held = CommittedOffsets(root / "offsets.log", "never").of("group")
        if not held:
            return 0
        first, second = held["topic", 0].offset, held["topic", 1].offset
        return first if first == second and 0 < first < 17 else TORN


STORIES = {Atomic: (210, 9000), Artifacts: (60, 9000), Catalog: (0, 256), Log: (0, 256), Offsets: (0, 256)}
"""How often a story saves, and choices for one file: many where loading needs no look at most of them."""

STATES = 1_000_000
FEW = 24
"""Choices that are enough to catch a missing sync."""


def recorded(story, directory):
    root, elsewhere = directory / "disk", directory / "elsewhere"
    root.mkdir(parents=True)
    elsewhere.mkdir()
    recorder = Recorder(root)
    with recorder.watching():
        story.record(recorder, elsewhere)
    return recorder.events


@pytest.fixture
def silent():
    """Keep the thousands of torn tails out of the log."""
    with structlog.testing.capture_logs():
        yield


@pytest.mark.timeout(900)
def test_no_state_of_a_million_loses_what_was_acknowledged_or_loads_what_is_torn(tmp_path, silent):
    states, images, told = 0, 0, []
    for kind, (saves, choices) in STORIES.items():
        story = kind(saves)
        events = recorded(story, tmp_path / kind.__name__)
        tally = enumerate_states(events, story, tmp_path / "image", choices=choices)
        assert not tally.violations, (kind.__name__, len(tally.violations), tally.violations[:3])
        states += tally.states
        images += tally.images
        told.append((kind.__name__, tally.states, tally.images))
    assert states > STATES, told
    assert images > STATES // 1000, told


@pytest.mark.parametrize("kind", STORIES, ids=lambda kind: kind.__name__)
def test_without_any_one_of_its_syncs_a_story_breaks_its_promise(kind, tmp_path, silent):
    story = kind(3)
    events = recorded(story, tmp_path)
    told = functools.partial(enumerate_states, story=story, scratch=tmp_path / "image", choices=FEW, seen={})
    whole_story = told(events)
    assert not whole_story.violations, whole_story.violations[:3]
    syncs = [at for at, event in enumerate(events) if isinstance(event, Synced) and not story.spare(events, at)]
    assert syncs
    for at in syncs:
        tally = told(events[:at] + events[at + 1 :], first=True)
        assert tally.violations, f"without event {at}, {events[at]}, nothing is lost: {events[max(0, at - 3) : at + 3]}"


@pytest.mark.parametrize("kind", [Atomic, Artifacts], ids=lambda kind: kind.__name__)
def test_without_any_one_of_its_renames_a_story_breaks_its_promise(kind, tmp_path):
    story = kind(3)
    events = recorded(story, tmp_path)
    renames = [at for at, event in enumerate(events) if isinstance(event, Named) and len(event.names) > 1]
    assert len(renames) == 3
    for at in renames:
        assert enumerate_states(
            events[:at] + events[at + 1 :], story, tmp_path / "image", choices=FEW, first=True
        ).violations


def test_a_file_written_in_place_is_caught(tmp_path):
    story = InPlace(3)
    tally = enumerate_states(recorded(story, tmp_path), story, tmp_path / "image", choices=FEW)
    assert len(tally.violations) > 10
    assert any("torn" in violation for violation in tally.violations)


def test_a_torn_tail_of_zeros_is_no_commit(tmp_path):
    path = tmp_path / "offsets.log"
    CommittedOffsets(path, "always").commit("group", {("topic", 0): Committed(7, -1, "")})
    with path.open("ab") as file:
        file.write(bytes(100))
    assert CommittedOffsets(path, "always").of("group")["topic", 0].offset == 7
