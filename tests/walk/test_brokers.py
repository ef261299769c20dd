"""The whole walk on two brokers: what comes out of a replay does not depend on whose log the records went through."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from domain.topics import ALL
from orchestration.planned import plan
from orchestration.replay import Replay
from orchestration.report import Report
from tests.brokers import DEADLINE_S, fill, one
from tests.walk.conftest import with_publishing

COUNTS = ("bars", "vectors", "examples", "learned", "predictions", "versions", "dead_letters", "streamed")


@pytest.fixture
def replay(candles, tmp_path):
    """Replay the same small file in a home of its own."""
    path, _ = candles

    def run(name: str) -> Report:
        with plan([path], "", "", "", [], tmp_path / name) as made:
            return Replay(with_publishing(made, 40)).run(verify=True)

    return run


@pytest.fixture
def foreign(apache):
    """Return an Apache Kafka on which somebody else has topics of the very names that Tidemill's have."""
    admin = AdminClient({"bootstrap.servers": apache.address})
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in ALL]).values():
        made.result(DEADLINE_S)
    fill(Producer({"bootstrap.servers": apache.address}), "bars", ["somebody else's"])
    yield admin
    for gone in admin.delete_topics(list(ALL)).values():
        gone.result(DEADLINE_S)


@pytest.mark.timeout(900)
def test_a_replay_on_apache_kafka_equals_the_one_on_the_dev_broker(replay, apache, foreign, monkeypatch):
    ours = replay("dev")
    monkeypatch.setenv("TIDEMILL_KAFKA_BOOTSTRAP_SERVERS", apache.address)
    theirs = replay("apache")
    assert {name: getattr(theirs, name) for name in COUNTS} == {name: getattr(ours, name) for name in COUNTS}
    for name, line in ours.lines.items():
        assert theirs.lines[name]["bit_identical"]
        assert theirs.lines[name]["digest"] == line["digest"]
        assert theirs.lines[name]["scores"] == line["scores"]
    assert theirs.targets == ours.targets
    assert ours.learned == ours.examples > 0
    # It touched no topic that was there, and left none of its own; Kafka made one for the positions that were mirrored.
    after = set(foreign.list_topics(timeout=DEADLINE_S).topics)
    assert set(ALL) <= after
    assert not [name for name in after if "replay" in name]
    for name in ALL:
        end = one(foreign.list_offsets({TopicPartition(name, 0): OffsetSpec.latest()})).offset
        assert end == (1 if name == "bars" else 0), name
