"""What the tests of brokers share: clients of the broker that ``bootstrap`` names, topics, and batches made by hand."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from crc32c import crc32c

from streaming.devbroker.batches import CRC_START, HEADER
from tests.brokers import DEADLINE_S

QUIET = {"log_level": 0, "reconnect.backoff.max.ms": 100}
"""For clients of a broker that may end: what goes wrong shows in what they return, not on the terminal."""


@pytest.fixture
def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, **QUIET})


@pytest.fixture(scope="session")
def fresh_name() -> Callable[[], str]:
    """Names that no earlier test, nor an earlier run against the same Kafka, has used."""
    numbers = itertools.count()
    return lambda: f"test-{os.getpid()}-{time.time_ns()}-{next(numbers)}"


@pytest.fixture
def topic(
    admin: AdminClient, fresh_name: Callable[[], str], eventually: Callable[[Callable[[], bool]], None]
) -> Iterator[Callable[..., str]]:
    """Topics that are deleted after the test."""
    made = []

    def make(partitions: int = 1, **settings: str) -> str:
        config = {name.replace("_", "."): value for name, value in settings.items()}
        name = fresh_name()
        for done in admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
            done.result(DEADLINE_S)
        made.append(name)
        eventually(lambda: name in admin.list_topics(timeout=DEADLINE_S).topics)  # created is not yet known everywhere
        return name

    yield make
    for done in admin.delete_topics(made).values() if made else ():
        done.result(DEADLINE_S)


@pytest.fixture
def producer(bootstrap: str) -> Callable[..., Producer]:
    return lambda **settings: Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 1, **QUIET}
        | {name.replace("_", "."): value for name, value in settings.items()}
    )


@pytest.fixture
def consumer(bootstrap: str, fresh_name: Callable[[], str]) -> Iterator[Callable[..., Consumer]]:
    """Consumers that are closed after the test."""
    opened: list[Consumer] = []

    def make(**settings: object) -> Consumer:
        chosen = {
            "bootstrap.servers": bootstrap,
            "group.id": fresh_name(),
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
            "heartbeat.interval.ms": 200,
            **QUIET,
        }
        opened.append(Consumer(chosen | {name.replace("_", "."): value for name, value in settings.items()}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def read() -> Callable[[Consumer, int], list[Message]]:
    """Read so many messages, or fail at the deadline; an error of any of them is raised."""

    def messages(consumer: Consumer, count: int) -> list[Message]:
        found: list[Message] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} messages"
            if (message := consumer.poll(0.1)) is not None:
                assert message.error() is None, message.error()
                found += [message, *consumer.consume(count - len(found) - 1, 0)]
        return found

    return messages


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, or fail at the deadline."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def batch() -> Callable[..., memoryview]:
    """Make a record batch of so many records of 1 ms distance, as a producer would send it."""

    def make(
        count: int = 1,
        *,
        timestamp: int = 1_000,
        value: bytes = b"v",
        producer: int = -1,
        epoch: int = 0,
        sequence: int = 0,
    ) -> memoryview:
        records = b"".join(_record(number, value) for number in range(count))
        last = count - 1
        head = [0, 49 + len(records), -1, 2, 0, 0, last, timestamp, timestamp + last, producer, epoch, sequence, count]
        data = bytearray(HEADER.pack(*head) + records)
        struct.pack_into(">I", data, CRC_START - 4, crc32c(bytes(data[CRC_START:])))
        return memoryview(bytes(data))

    return make


def _record(number: int, value: bytes) -> bytes:
    body = b"\0" + _varint(number) + _varint(number) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    return _varint(len(body)) + body


def _varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while zigzag >= 0x80:
        encoded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*encoded, zigzag])
