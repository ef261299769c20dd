"""What any Kafka keeps when a broker or a client ends, by request or by ``kill -9``."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from tests.brokers import DEADLINE_S, fill, one

PATIENCE_S = 60.0

# Joins a group, reads and commits what it has read, and tells when it holds its partition.
MEMBER = """
import sys
from confluent_kafka import Consumer
bootstrap, group, topic = sys.argv[1:]
reader = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                   "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "enable.auto.commit": False})
reader.subscribe([topic])
for _ in range(40):
    while (message := reader.poll(1.0)) is None:
        pass
    reader.commit(message=message, asynchronous=False)
print("read", flush=True)
while True:
    reader.poll(1.0)
"""

# Writes records that tell whether they are whole, for ever.
WRITER = """
import sys
from confluent_kafka import Producer
bootstrap, topic = sys.argv[1:]
sender = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 2, "batch.size": 20_000,
                   "compression.type": "lz4"})
number, acknowledged = 0, 0
def told(error, message):
    global acknowledged
    assert error is None, error
    acknowledged = max(acknowledged, message.offset() + 1)
while True:
    for _ in range(1000):
        sender.produce(topic, b"%d:" % number + b"x" * (number % 300) + b".", partition=0, on_delivery=told)
        number += 1
    while len(sender) > 20_000:
        sender.poll(0.01)
    sender.poll(0)
    print(acknowledged, flush=True)
"""


def begin(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_everything_acknowledged_is_there_after_a_restart(
    end: str, mortal, admin, topic, producer, consumer, read, fresh_name
) -> None:
    name, group = topic(partitions=2, retention_ms="777777777"), fresh_name()
    for partition in (0, 1):
        fill(producer(), name, range(500), partition=partition)
    committer = consumer(group_id=group)
    committer.commit(offsets=[TopicPartition(name, 1, 123, "words")], asynchronous=False)
    committer.close()
    getattr(mortal, end)()
    mortal.start()
    settings = one(admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]))
    assert settings["retention.ms"].value == "777777777"
    reader = consumer(group_id=group)
    (committed,) = reader.committed([TopicPartition(name, 1)], timeout=DEADLINE_S)
    assert (committed.offset, committed.metadata) == (123, "words")
    reader.assign([TopicPartition(name, 0, 0), TopicPartition(name, 1, 0)])
    found: dict[int, list[int]] = {0: [], 1: []}
    for message in read(reader, 1000):
        found[message.partition()].append(int(message.value()))
    assert found == {0: list(range(500)), 1: list(range(500))}


def test_no_message_is_lost_or_doubled_while_the_broker_is_killed(kind, mortal, topic, producer, consumer) -> None:
    """An idempotent producer with five batches in flight, a reader that stays; Apache Kafka takes seconds to return."""
    name, (count, kills) = topic(), (60_000, 5) if kind == "dev" else (40_000, 2)
    sender = producer(enable_idempotence=True, retry_backoff_ms=10, batch_num_messages=100)
    delivered: list[int] = []
    failed: list[KafkaError] = []

    def told(error: KafkaError | None, message) -> None:
        (failed if error else delivered).append(error or message.offset())

    def produce() -> None:
        for number in range(count):
            sender.produce(name, str(number), partition=0, on_delivery=told)
            if number % 100 == 0:
                sender.poll(0.002)
        sender.flush(PATIENCE_S)

    reader = consumer()
    reader.assign([TopicPartition(name, 0, 0)])
    writing = threading.Thread(target=produce)
    writing.start()
    for kill in range(1, kills + 1):
        until(lambda kill=kill: len(delivered) >= kill * count // (kills + 2))
        mortal.kill()
        mortal.start()
    writing.join(PATIENCE_S)
    assert not writing.is_alive()
    assert not failed
    values: list[int] = []
    until(lambda: values.extend(some(reader)) or len(values) >= count)
    assert values == list(range(count))
    assert delivered == list(range(count))
    assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, count)


def test_who_takes_the_place_of_a_killed_member_resumes_where_it_committed(
    bootstrap, topic, producer, consumer, read, fresh_name
) -> None:
    name, group = topic(), fresh_name()
    fill(producer(), name, range(100))
    with begin(MEMBER, bootstrap, group, name) as member:
        assert member.stdout is not None
        assert member.stdout.readline() == "read\n"
        heir = consumer(group_id=group, session_timeout_ms=6000)
        heir.subscribe([name])
        member.kill()
    assert [int(message.value()) for message in read(heir, 60)] == list(range(40, 100))


def test_a_session_shorter_than_the_broker_can_watch_is_refused(topic, consumer) -> None:
    reader = consumer(session_timeout_ms=5_999)
    reader.subscribe([topic()])
    message = reader.poll(DEADLINE_S)
    assert message is not None
    assert message.error().code() == KafkaError.INVALID_SESSION_TIMEOUT


def test_a_killed_writer_leaves_no_half_record(bootstrap, topic, consumer, read) -> None:
    name = topic()
    with begin(WRITER, bootstrap, name) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        while acknowledged < 10_000:
            acknowledged = int(writer.stdout.readline())
        writer.kill()
    reader = consumer()
    _, end = reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S)
    assert end >= acknowledged
    reader.assign([TopicPartition(name, 0, 0)])
    for number, message in enumerate(read(reader, end)):
        assert (message.offset(), message.value()) == (number, b"%d:" % number + b"x" * (number % 300) + b".")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.002)


def some(reader: Consumer) -> list[int]:
    return [int(message.value()) for message in reader.consume(10_000, 0.2) if not message.error()]
