"""What any Kafka says of the identity of a topic's log: the id of the cluster and the id of the topic."""

from __future__ import annotations

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from tests.brokers import DEADLINE_S, one


def identity(address: str, name: str) -> tuple[str, str]:
    """Ask as a service that has just started would."""
    admin = AdminClient({"bootstrap.servers": address})
    cluster = admin.describe_cluster().result(DEADLINE_S)
    return cluster.cluster_id, str(one(admin.describe_topics(TopicCollection([name]))).topic_id)


def test_two_topics_of_one_cluster_have_two_identities(bootstrap, topic) -> None:
    (cluster, first), (same, second) = (identity(bootstrap, topic()) for _ in range(2))
    assert cluster == same
    assert first != second


def test_a_recreated_topic_is_another_log_of_the_same_cluster(bootstrap, admin, topic, eventually) -> None:
    name = topic()
    cluster, before = identity(bootstrap, name)
    one(admin.delete_topics([name]))
    eventually(lambda: name not in admin.list_topics(timeout=DEADLINE_S).topics)
    one(admin.create_topics([NewTopic(name, 1, 1)]))
    eventually(lambda: name in admin.list_topics(timeout=DEADLINE_S).topics)
    same, after = identity(bootstrap, name)
    assert same == cluster
    assert after != before


def test_a_restarted_broker_has_the_same_logs(mortal, topic) -> None:
    name = topic()
    before = identity(mortal.address, name)
    mortal.kill()
    mortal.start()
    assert identity(mortal.address, name) == before


def test_a_wiped_broker_is_another_cluster_with_other_logs(mortal, admin, topic, eventually) -> None:
    name = topic()
    cluster, log = identity(mortal.address, name)
    mortal.kill()
    mortal.wipe()
    mortal.start()
    one(admin.create_topics([NewTopic(name, 1, 1)]))
    eventually(lambda: name in admin.list_topics(timeout=DEADLINE_S).topics)
    other_cluster, other_log = identity(mortal.address, name)
    assert cluster != other_cluster
    assert log != other_log
