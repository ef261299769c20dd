"""What any Kafka does with the batches of an idempotent producer: each once and in order, whatever is sent again."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import TopicPartition
from kio.schema.errors import ErrorCode

from tests.brokers import DEADLINE_S, fill

PRODUCE, VERSION = 0, 7
ANSWER = struct.Struct(">ihqqqi")  # partition, code, base offset, append time, start, throttle time


@pytest.fixture
def send(bootstrap: str, topic: Callable[..., str]) -> Iterator[Callable[[memoryview], tuple[ErrorCode, int]]]:
    """Send batches made by hand to one partition, and return what the broker answers: the code and the offset."""
    name = topic(retention_ms="-1").encode()
    host, port = bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), DEADLINE_S) as line, line.makefile("rb") as answers:

        def produce(batch: memoryview) -> tuple[ErrorCode, int]:
            head = struct.pack(">hhih", PRODUCE, VERSION, 1, -1)
            body = struct.pack(">hhii", -1, -1, 10_000, 1) + struct.pack(">h", len(name)) + name
            body += struct.pack(">iii", 1, 0, len(batch)) + batch
            line.sendall(struct.pack(">i", len(head + body)) + head + body)
            (size,) = struct.unpack(">i", answers.read(4))
            _, code, offset, *_ = ANSWER.unpack(answers.read(size)[-ANSWER.size :])
            return ErrorCode(code), offset

        while produce_is_early(produce):
            pass
        yield produce


def produce_is_early(produce: Callable[[memoryview], tuple[ErrorCode, int]]) -> bool:
    """Whether a topic that has just been created is not served yet: then not even an empty batch is judged."""
    return produce(memoryview(b""))[0] in {ErrorCode.unknown_topic_or_partition, ErrorCode.not_leader_or_follower}


def test_a_batch_sent_again_keeps_its_first_place(send, batch) -> None:
    first, second = (batch(3, producer=77_001, sequence=sequence) for sequence in (0, 3))
    assert send(first) == (ErrorCode.none, 0)
    assert send(second) == (ErrorCode.none, 3)
    assert send(first) == (ErrorCode.none, 0)
    assert send(second) == (ErrorCode.none, 3)
    assert send(batch(1, producer=77_001, sequence=6)) == (ErrorCode.none, 6)


def test_each_of_five_batches_in_flight_may_be_repeated(send, batch) -> None:
    batches = [batch(2, producer=77_002, sequence=2 * number) for number in range(5)]
    assert [send(one) for one in batches] == [(ErrorCode.none, 2 * number) for number in range(5)]
    assert [send(one) for one in reversed(batches)] == [(ErrorCode.none, 2 * number) for number in reversed(range(5))]


@pytest.mark.parametrize("sequence", [4, 1_000])
def test_a_gap_before_a_batch_is_refused(send, batch, sequence: int) -> None:
    assert send(batch(3, producer=77_003)) == (ErrorCode.none, 0)
    assert send(batch(1, producer=77_003, sequence=sequence))[0] is ErrorCode.out_of_order_sequence_number
    assert send(batch(1, producer=77_003, sequence=3)) == (ErrorCode.none, 3)


def test_the_former_self_of_a_producer_is_fenced(send, batch) -> None:
    assert send(batch(3, producer=77_004, epoch=1)) == (ErrorCode.none, 0)
    assert send(batch(1, producer=77_004, epoch=0, sequence=3))[0] is ErrorCode.invalid_producer_epoch
    assert send(batch(1, producer=77_004, epoch=2, sequence=9))[0] is ErrorCode.out_of_order_sequence_number
    assert send(batch(1, producer=77_004, epoch=2, sequence=0)) == (ErrorCode.none, 3)


def test_two_producers_count_each_for_itself(send, batch) -> None:
    assert send(batch(3, producer=77_005)) == (ErrorCode.none, 0)
    assert send(batch(3, producer=77_006)) == (ErrorCode.none, 3)
    assert send(batch(3, producer=77_005, sequence=3)) == (ErrorCode.none, 6)


def test_an_unknown_producer_may_begin_anywhere(send, batch) -> None:
    """Its earlier batches may have aged out of the log."""
    assert send(batch(1, producer=77_007, sequence=40)) == (ErrorCode.none, 0)
    assert send(batch(1, producer=77_007, sequence=41)) == (ErrorCode.none, 1)


def test_small_batches_five_in_flight_arrive_once_and_in_order(topic, producer, consumer, read) -> None:
    name, count = topic(), 20_000
    settings = {"enable_idempotence": True, "max_in_flight_requests_per_connection": 5, "batch_num_messages": 10}
    fill(producer(**settings), name, range(count))
    reader = consumer()
    reader.assign([TopicPartition(name, 0, 0)])
    assert [int(message.value()) for message in read(reader, count)] == list(range(count))
    assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, count)


def test_two_million_messages_are_read_from_the_start(topic, producer, consumer) -> None:
    name, count, share = topic(), 2_000_000, 50_000
    sender = producer(
        enable_idempotence=True, compression_type="lz4", linger_ms=20, queue_buffering_max_messages=2 * share
    )
    for start in range(0, count, share):
        messages = [{"value": b"%d" % number} for number in range(start, start + share)]
        assert sender.produce_batch(name, messages, partition=0) == share
        while len(sender) > share:
            sender.poll(0.01)
    assert sender.flush(60) == 0
    reader = consumer(queued_min_messages=1_000_000)
    assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, count)
    reader.assign([TopicPartition(name, 0, 0)])
    at = 0
    while at < count:
        found = [reader.poll(DEADLINE_S), *reader.consume(share, 0)]
        assert [int(message.value()) for message in found] == list(range(at, at + len(found)))
        at += len(found)
