"""What any Kafka does with topics and the cluster."""

from __future__ import annotations

import pytest
from confluent_kafka import (
    KafkaError,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from tests.brokers import DEADLINE_S, fill, one, refusal_of


class TestTopics:
    def test_a_created_topic_is_listed_with_its_partitions(self, admin: AdminClient, topic) -> None:
        name = topic(partitions=3)
        found = admin.list_topics(name, timeout=DEADLINE_S).topics[name]
        assert found.error is None
        assert sorted(found.partitions) == [0, 1, 2]

    def test_a_topic_is_created_once(self, admin: AdminClient, topic) -> None:
        name = topic()
        again = lambda: one(admin.create_topics([NewTopic(name, 1, 1)]))  # noqa: E731
        assert refusal_of(again) == KafkaError.TOPIC_ALREADY_EXISTS

    @pytest.mark.parametrize(
        ("wanted", "code"),
        [
            (("no spaces", 1, 1, {}), KafkaError.TOPIC_EXCEPTION),
            (("few", 0, 1, {}), KafkaError.INVALID_PARTITIONS),
            (("replicated", 1, 7, {}), KafkaError.INVALID_REPLICATION_FACTOR),
            (("unheard-of", 1, 1, {"no.such.setting": "1"}), KafkaError.INVALID_CONFIG),
            (("misread", 1, 1, {"retention.ms": "soon"}), KafkaError.INVALID_CONFIG),
        ],
    )
    def test_an_unfit_topic_is_refused_by_the_proper_error(self, admin: AdminClient, wanted, code) -> None:
        name, partitions, replicas, config = wanted
        create = lambda: one(admin.create_topics([NewTopic(name, partitions, replicas, config=config)]))  # noqa: E731
        assert refusal_of(create) == code
        assert name not in admin.list_topics(timeout=DEADLINE_S).topics

    def test_validate_only_creates_nothing(self, admin: AdminClient, fresh_name) -> None:
        name = fresh_name()
        one(admin.create_topics([NewTopic(name, 2, 1)], validate_only=True))
        assert name not in admin.list_topics(timeout=DEADLINE_S).topics

    def test_partitions_grow_and_never_shrink(
        self, admin: AdminClient, topic, producer, consumer, read, eventually
    ) -> None:
        name = topic(partitions=1)
        one(admin.create_partitions([NewPartitions(name, 3)]))
        eventually(lambda: len(admin.list_topics(name, timeout=DEADLINE_S).topics[name].partitions) == 3)
        assert refusal_of(lambda: one(admin.create_partitions([NewPartitions(name, 2)]))) == (
            KafkaError.INVALID_PARTITIONS
        )
        fill(producer(), name, ["there"], partition=2)
        reader = consumer()
        reader.assign([TopicPartition(name, 2, 0)])
        assert read(reader, 1)[0].value() == b"there"

    def test_a_deleted_topic_is_gone_and_a_new_one_of_its_name_is_empty(
        self, admin: AdminClient, topic, producer, consumer, eventually
    ) -> None:
        name = topic()
        before = one(admin.describe_topics(TopicCollection([name]))).topic_id
        fill(producer(), name, range(10))
        one(admin.delete_topics([name]))
        eventually(lambda: name not in admin.list_topics(timeout=DEADLINE_S).topics)
        assert refusal_of(lambda: one(admin.delete_topics([name]))) == KafkaError.UNKNOWN_TOPIC_OR_PART
        one(admin.create_topics([NewTopic(name, 1, 1)]))
        assert consumer().get_watermark_offsets(TopicPartition(name, 0), timeout=DEADLINE_S) == (0, 0)
        after = one(admin.describe_topics(TopicCollection([name]))).topic_id
        assert str(before) != str(after)

    def test_settings_are_told_as_they_are_in_force(self, admin: AdminClient, topic) -> None:
        name = topic(retention_ms="12345")
        settings = one(admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]))
        assert settings["retention.ms"].value == "12345"
        assert not settings["retention.ms"].is_default
        assert settings["cleanup.policy"].value == "delete"
        assert settings["cleanup.policy"].is_default
        absent = lambda: one(admin.describe_configs([ConfigResource(ResourceType.TOPIC, name + "x")]))  # noqa: E731
        assert refusal_of(absent) == KafkaError.UNKNOWN_TOPIC_OR_PART

    def test_the_cluster_says_who_it_is(self, admin: AdminClient) -> None:
        cluster = admin.describe_cluster().result(DEADLINE_S)
        assert cluster.cluster_id
        assert cluster.cluster_id == admin.list_topics(timeout=DEADLINE_S).cluster_id
        assert cluster.controller.id in {node.id for node in cluster.nodes}

    def test_the_number_of_partitions_may_be_left_to_the_broker(self, admin: AdminClient, fresh_name) -> None:
        name = fresh_name()
        one(admin.create_topics([NewTopic(name)]))
        assert len(admin.list_topics(name, timeout=DEADLINE_S).topics[name].partitions) >= 1
        one(admin.delete_topics([name]))
