"""The topics at the broker: made with their settings, widened for instruments added since, deleted after a replay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from domain import topics
from domain.config import Places
from domain.errors import BadState, Unavailable
from streaming.kafka import at_broker, client_config


def create_topics(
    places: Places, instruments: Sequence[str], deadline_s: float = 30.0, admin: AdminClient | None = None
) -> None:
    """Create the topics with their settings, and partitions for instruments added since.

    Parameters
    ----------
    admin : a client that is connected already; None connects one

    Raises
    ------
    Unavailable
        When the broker cannot be reached, or does not show what it has created, within the deadline.
    BadState
        When it refuses to create a topic.
    """
    admin = admin or AdminClient(client_config(places))
    existing = names_at_broker(admin, places, deadline_s)
    wanted = {at_broker(places, name): len(instruments) if name in topics.BY_INSTRUMENT else 1 for name in topics.ALL}
    new = [
        NewTopic(name, count, config=topics.SETTINGS, replication_factor=-1)
        for name, count in wanted.items()
        if name not in existing
    ]
    if new:
        _settle(admin.create_topics(new, operation_timeout=deadline_s), KafkaError.TOPIC_ALREADY_EXISTS)
    grown = [NewPartitions(name, count) for name, count in wanted.items() if existing.get(name, count) < count]
    if grown:
        # Invalid when another service, which starts beside this one, was quicker: what counts is what shows.
        _settle(admin.create_partitions(grown), KafkaError.INVALID_PARTITIONS)
    _wait(admin, places, deadline_s, lambda shown: all(shown.get(name, 0) >= count for name, count in wanted.items()))


def delete_topics(places: Places, deadline_s: float = 30.0) -> None:
    """Delete the topics of a mill that shares a broker under a prefix of its own.

    Raises
    ------
    BadState
        When there is no prefix, hence no telling whose topics they are, or the broker refuses.
    Unavailable
        When the broker cannot be reached within the deadline.
    """
    if not places.kafka_topic_prefix:
        raise BadState("topics without a prefix are deleted by hand only")
    admin = AdminClient(client_config(places))
    existing = names_at_broker(admin, places, deadline_s)
    ours = [name for name in (at_broker(places, topic) for topic in topics.ALL) if name in existing]
    if ours:
        _settle(admin.delete_topics(ours, operation_timeout=deadline_s), KafkaError.UNKNOWN_TOPIC_OR_PART)
    _wait(admin, places, deadline_s, lambda shown: not shown.keys() & set(ours))


def _wait(admin: AdminClient, places: Places, deadline_s: float, is_done: Callable[[Mapping[str, int]], bool]) -> None:
    """Wait until the broker shows what its controller, which has answered, knows already."""
    until = time.monotonic() + deadline_s
    while not is_done(names_at_broker(admin, places, deadline_s)):
        if time.monotonic() > until:
            raise Unavailable(f"the broker at {places.bootstrap} does not show the topics as changed; see its log")
        time.sleep(0.02)


def _settle(asked: Mapping[str, Future[None]], as_good: int) -> None:
    for name, future in asked.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != as_good:
                raise BadState(f"broker refuses a change of topic {name}: {error.args[0].str()}") from error


def names_at_broker(admin: AdminClient, places: Places, deadline_s: float) -> dict[str, int]:
    """Return the number of partitions of every topic at the broker, which is waited for.

    Raises
    ------
    Unavailable
        When it does not answer within the deadline.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            found = admin.list_topics(timeout=2.0)
            return {name: len(t.partitions) for name, t in found.topics.items()}
        except KafkaException as error:
            if time.monotonic() > until:
                raise Unavailable(f"no Kafka broker at {places.bootstrap} ({error.args[0].str()}); start it") from error


def probe(places: Places, deadline_s: float = 5.0) -> str:
    """Return what the broker says of itself, in words.

    Raises
    ------
    Unavailable
        When it does not answer within the deadline.
    """
    found = names_at_broker(AdminClient(client_config(places)), places, deadline_s)
    return f"{places.bootstrap} answers, {len(found)} topics"
