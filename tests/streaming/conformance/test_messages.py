"""What any Kafka does with messages and positions."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import (
    OFFSET_END,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.brokers import DEADLINE_S, fill, one

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class TestMessages:
    @pytest.mark.parametrize("codec", CODECS)
    def test_everything_of_a_message_comes_back(self, codec: str, topic, producer, consumer, read) -> None:
        name = topic(retention_ms="-1")  # its times are old
        sender = producer(compression_type=codec)
        sent = [
            (b"key", b"value " * 200, 1_700_000_000_123, [("a", b"1"), ("a", b"2"), ("none", None)]),
            (None, b"", 1_700_000_000_000, []),
            (b"", None, int(time.time() * 1000) + 1_800_000, [("b", b"")]),  # half an hour ahead
            ("é".encode(), bytes(range(256)) * 20, 1, [("ü", b"x")]),
        ]
        for key, value, timestamp, headers in sent:
            sender.produce(name, value, key, partition=0, timestamp=timestamp, headers=headers)
        assert sender.flush(DEADLINE_S) == 0
        reader = consumer()
        reader.assign([TopicPartition(name, 0, 0)])
        found = [(m.key(), m.value(), m.timestamp()[1], m.headers() or []) for m in read(reader, len(sent))]
        assert found == sent

    def test_offsets_count_up_in_the_order_of_production(self, topic, producer, consumer, read) -> None:
        name = topic()
        fill(producer(enable_idempotence=True), name, range(5000))
        reader = consumer()
        reader.assign([TopicPartition(name, 0, 0)])
        found = [(m.offset(), int(m.value())) for m in read(reader, 5000)]
        assert found == [(number, number) for number in range(5000)]

    def test_delivery_is_told_with_the_offset(self, topic, producer) -> None:
        name = topic()
        told = []
        sender = producer(acks="all")
        for _ in range(3):
            sender.produce(name, b"x", partition=0, on_delivery=lambda error, m: told.append((error, m.offset())))
            sender.flush(DEADLINE_S)
        assert told == [(None, 0), (None, 1), (None, 2)]

    def test_without_acknowledgement_messages_arrive_all_the_same(self, topic, producer, consumer, read) -> None:
        name = topic()
        fill(producer(acks=0), name, range(100))
        reader = consumer()
        reader.assign([TopicPartition(name, 0, 0)])
        assert len(read(reader, 100)) == 100

    def test_an_absent_topic_is_an_error_and_stays_absent(self, admin: AdminClient, producer, fresh_name) -> None:
        name = fresh_name()
        told = []
        sender = producer(topic_metadata_propagation_max_ms=100, message_timeout_ms=5000)
        sender.produce(name, b"x", on_delivery=lambda error, _: told.append(error.code()))
        sender.flush(DEADLINE_S)
        assert told[0] in {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
        assert name not in admin.list_topics(timeout=DEADLINE_S).topics

    def test_a_batch_above_the_limit_is_refused(self, topic, producer) -> None:
        name = topic(max_message_bytes="1000")
        told = []
        sender = producer()
        sender.produce(name, b"x" * 5000, partition=0, on_delivery=lambda error, _: told.append(error.code()))
        sender.flush(DEADLINE_S)
        assert told == [KafkaError.MSG_SIZE_TOO_LARGE]

    def test_a_time_too_far_ahead_of_the_brokers_clock_is_refused(self, topic, producer) -> None:
        name = topic()
        told = []
        sender = producer()
        ahead = int(time.time() * 1000) + 5_400_000
        sender.produce(name, b"x", timestamp=ahead, on_delivery=lambda error, _: told.append(error.code()))
        sender.flush(DEADLINE_S)
        assert told == [KafkaError.INVALID_TIMESTAMP]
        patient = topic(message_timestamp_after_max_ms="7200000")
        fill(sender, patient, ["x"], times=[ahead])

    def test_a_message_above_the_fetch_limit_is_read_all_the_same(self, topic, producer, consumer, read) -> None:
        name = topic()
        sender = producer(batch_num_messages=1)
        sizes = [10, 200_000, 10, 300_000, 10]
        for size in sizes:
            sender.produce(name, b"x" * size, partition=0)
            sender.flush(DEADLINE_S)
        reader = consumer(fetch_message_max_bytes=1000, fetch_max_bytes=300_100, message_max_bytes=300_000)
        reader.assign([TopicPartition(name, 0, 0)])
        assert [len(m.value()) for m in read(reader, len(sizes))] == sizes

    def test_several_partitions_share_a_fetch(self, topic, producer, consumer, read) -> None:
        name = topic(partitions=4)
        sender = producer(batch_num_messages=10, enable_idempotence=True)  # or a retried batch may overtake
        for partition in range(4):
            fill(sender, name, range(500), partition=partition)
        reader = consumer(fetch_message_max_bytes=1000, fetch_max_bytes=3000, message_max_bytes=1000)
        reader.assign([TopicPartition(name, partition, 0) for partition in range(4)])
        found: dict[int, list[int]] = {}
        for message in read(reader, 2000):
            found.setdefault(message.partition(), []).append(int(message.value()))
        assert found == {partition: list(range(500)) for partition in range(4)}

    def test_a_waiting_reader_is_woken_long_before_its_wait_is_over(self, topic, producer, consumer, read) -> None:
        name = topic()
        reader = consumer(fetch_wait_max_ms=15_000)
        reader.assign([TopicPartition(name, 0, 0)])
        assert reader.poll(0.5) is None
        began = time.monotonic()
        fill(producer(), name, ["news"])
        assert read(reader, 1)[0].value() == b"news"
        assert time.monotonic() - began < 10

    def test_append_time_is_the_brokers(self, topic, producer, consumer, read) -> None:
        name = topic(message_timestamp_type="LogAppendTime")
        fill(producer(compression_type="zstd"), name, ["x", "y"], times=[1000, 2000])
        reader = consumer()
        reader.assign([TopicPartition(name, 0, 0)])
        for message in read(reader, 2):
            kind, timestamp = message.timestamp()
            assert kind == 2
            assert abs(timestamp / 1000 - time.time()) < 3600


class TestPositions:
    def test_watermarks_enclose_the_log(self, topic, producer, consumer) -> None:
        name = topic()
        reader = consumer()
        assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, 0)
        fill(producer(), name, range(777))
        assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, 777)

    @pytest.mark.parametrize("codec", CODECS)
    def test_a_time_leads_to_the_first_record_at_or_after_it(self, codec: str, topic, producer, consumer) -> None:
        name = topic(retention_ms="-1")  # its times are old
        sender = producer(compression_type=codec, batch_num_messages=7)
        fill(sender, name, range(100), times=[10_000 + 10 * number for number in range(100)])
        reader = consumer()

        def offset_at(timestamp: int) -> int:
            (found,) = reader.offsets_for_times([TopicPartition(name, 0, timestamp)], timeout=DEADLINE_S)
            return found.offset

        assert offset_at(0) == 0
        assert offset_at(10_000) == 0
        assert offset_at(10_001) == 1
        assert offset_at(10_500) == 50
        assert offset_at(10_509) == 51
        assert offset_at(10_990) == 99
        assert offset_at(10_991) == OFFSET_END

    def test_the_newest_time_has_an_offset(self, admin: AdminClient, topic, producer) -> None:
        name = topic(retention_ms="-1")  # its times are old
        fill(producer(), name, range(4), times=[1000, 9000, 3000, 4000])
        found = one(admin.list_offsets({TopicPartition(name, 0): OffsetSpec.max_timestamp()}))
        assert (found.offset, found.timestamp) == (1, 9000)

    @pytest.mark.parametrize("offset", [11, 1_000_000])
    def test_a_position_outside_the_log_is_an_error(self, offset: int, topic, producer, consumer) -> None:
        name = topic()
        fill(producer(), name, range(10))
        reader = consumer()
        reader.assign([TopicPartition(name, 0, offset)])
        message = reader.poll(DEADLINE_S)
        assert message is not None
        assert message.error().code() == KafkaError._AUTO_OFFSET_RESET

    def test_the_end_of_the_log_is_no_error(self, topic, producer, consumer, read) -> None:
        name = topic()
        fill(producer(), name, range(10))
        reader = consumer()
        reader.assign([TopicPartition(name, 0, 10)])
        assert reader.poll(0.3) is None
        fill(producer(), name, ["next"])
        assert read(reader, 1)[0].offset() == 10

    def test_a_reader_may_seek_into_the_middle_of_a_batch(self, topic, producer, consumer, read) -> None:
        name = topic()
        fill(producer(linger_ms=50), name, range(1000))
        reader = consumer()
        for offset in (999, 500, 1, 0):
            reader.assign([TopicPartition(name, 0, offset)])
            assert read(reader, 1)[0].offset() == offset
