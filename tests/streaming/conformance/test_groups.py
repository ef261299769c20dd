"""What any Kafka does with consumer groups."""

from __future__ import annotations

import pytest
from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from tests.brokers import DEADLINE_S, fill, one, refusal_of, settled


class TestGroups:
    def test_a_commit_with_its_metadata_is_where_the_next_reader_resumes(
        self, topic, producer, consumer, read, fresh_name
    ) -> None:
        name, group = topic(), fresh_name()
        fill(producer(), name, range(100))
        first = consumer(group_id=group)
        first.assign([TopicPartition(name, 0, 0)])
        read(first, 40)
        first.commit(offsets=[TopicPartition(name, 0, 40, "checkpoint 7")], asynchronous=False)
        second = consumer(group_id=group)
        (committed,) = second.committed([TopicPartition(name, 0)], timeout=DEADLINE_S)
        assert (committed.offset, committed.metadata) == (40, "checkpoint 7")
        second.subscribe([name])
        assert read(second, 60)[0].offset() == 40

    def test_what_was_never_committed_has_no_offset(self, topic, consumer) -> None:
        (committed,) = consumer().committed([TopicPartition(topic(), 0)], timeout=DEADLINE_S)
        assert committed.offset < 0

    @pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
    def test_two_members_share_the_partitions_and_one_inherits_them(
        self, strategy: str, topic, consumer, fresh_name
    ) -> None:
        name, group = topic(partitions=4), fresh_name()
        settings = {"group_id": group, "partition_assignment_strategy": strategy, "auto_offset_reset": "earliest"}
        first, second = consumer(**settings), consumer(**settings)
        for member in (first, second):
            member.subscribe([name])
        shares = settled([first, second], [2, 2])
        assert shares[0] | shares[1] == {0, 1, 2, 3}
        second.close()
        assert settled([first], [4]) == [{0, 1, 2, 3}]

    def test_a_group_and_its_members_can_be_seen(self, admin: AdminClient, topic, consumer, fresh_name) -> None:
        name, group = topic(partitions=2), fresh_name()
        member = consumer(group_id=group, client_id="the-client")
        member.subscribe([name])
        settled([member], [2])
        listed = {found.group_id: found for found in admin.list_consumer_groups().result(DEADLINE_S).valid}
        assert listed[group].state == ConsumerGroupState.STABLE
        described = one(admin.describe_consumer_groups([group]))
        assert described.state == ConsumerGroupState.STABLE
        assert [one.client_id for one in described.members] == ["the-client"]
        assert {p.partition for p in described.members[0].assignment.topic_partitions} == {0, 1}
        member.close()
        assert one(admin.describe_consumer_groups([group])).state in {
            ConsumerGroupState.EMPTY,
            ConsumerGroupState.DEAD,
        }

    def test_the_offsets_of_a_group_can_be_read_and_deleted_with_it(
        self, admin: AdminClient, topic, consumer, fresh_name
    ) -> None:
        name, group = topic(partitions=2), fresh_name()
        consumer(group_id=group).commit(offsets=[TopicPartition(name, 1, 0)], asynchronous=False)
        found = one(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))
        assert [(p.topic, p.partition, p.offset) for p in found.topic_partitions] == [(name, 1, 0)]
        one(admin.delete_consumer_groups([group]))
        assert refusal_of(lambda: one(admin.delete_consumer_groups([group]))) == KafkaError.GROUP_ID_NOT_FOUND

    def test_a_stranger_may_not_commit_for_a_group_with_members(self, topic, consumer, fresh_name) -> None:
        name, group = topic(), fresh_name()
        member = consumer(group_id=group)
        member.subscribe([name])
        settled([member], [1])
        stranger = consumer(group_id=group)
        commit = lambda: stranger.commit(offsets=[TopicPartition(name, 0, 1)], asynchronous=False)  # noqa: E731
        assert refusal_of(commit) == KafkaError.UNKNOWN_MEMBER_ID

    def test_a_restarted_static_member_takes_its_place_again(self, topic, consumer, fresh_name) -> None:
        name, group = topic(partitions=4), fresh_name()
        settings = {"group_id": group, "auto_offset_reset": "earliest", "session_timeout_ms": 10_000}
        revoked = []
        stays, leaves = consumer(**settings, group_instance_id="a"), consumer(**settings, group_instance_id="b")
        stays.subscribe([name], on_revoke=lambda _, gone: revoked.extend(gone))
        leaves.subscribe([name])
        shares = settled([stays, leaves], [2, 2])
        revoked.clear()
        leaves.close()
        back = consumer(**settings, group_instance_id="b")
        back.subscribe([name])
        assert settled([stays, back], [2, 2]) == shares
        assert revoked == []

    def test_an_offset_of_a_deleted_topic_is_forgotten(
        self, admin: AdminClient, topic, consumer, fresh_name, eventually
    ) -> None:
        name, group = topic(), fresh_name()
        committer = consumer(group_id=group)
        committer.commit(offsets=[TopicPartition(name, 0, 5)], asynchronous=False)
        one(admin.delete_topics([name]))
        eventually(lambda: name not in admin.list_topics(timeout=DEADLINE_S).topics)
        one(admin.create_topics([NewTopic(name, 1, 1)]))
        eventually(lambda: committer.committed([TopicPartition(name, 0)], timeout=DEADLINE_S)[0].offset < 0)
