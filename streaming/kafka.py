"""The one place that talks to Kafka: the transport's readers and idempotent writers, topics and their errors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from functools import cached_property

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from domain.config import Places
from domain.errors import Unavailable
from streaming.properties import READS, WRITES
from streaming.transport import Key, Records

BATCH = 2_000
"""Records a poll returns at most: large enough to amortise a call, small enough to keep a loop responsive."""

SILENT_S = 5.0
"""Seconds without an answer of the broker after which a reader no longer knows how far behind it is."""

STATISTICS_MS = 1_000
"""Between two looks at how many answers came: a waiting fetch is answered every 10 ms, also in a quiet market."""

DEADLINE_S = 10.0
"""For an answer of the broker to a question about itself."""

_SETTLING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the library's only name for it
}
"""Apache Kafka shows a new partition to clients a moment before it serves it; a broker that has just started, none."""

# Failed connections are reported by our own deadlines, in one line; librdkafka would print each attempt.
_QUIET = {"log_level": 2, "socket.keepalive.enable": True}


def client_config(places: Places) -> dict[str, str | int | float | bool]:
    """Return the librdkafka settings that every client shares; ``TIDEMILL_KAFKA`` settings pass through."""
    return {"bootstrap.servers": places.bootstrap, **_QUIET, **places.kafka}


def at_broker(places: Places, topic: str) -> str:
    """Return a topic's name on the broker; everywhere else in the house it has its plain one."""
    return places.kafka_topic_prefix + topic


def _group(places: Places, name: str) -> str:
    """Return the id of a group; mills that share a broker do not share groups."""
    return f"{places.kafka_topic_prefix}tidemill-{name}"


class Kafka:
    """The transport of a real broker, see ``streaming.transport``."""

    def __init__(self, places: Places) -> None:
        self._places = places

    @cached_property
    def admin(self) -> AdminClient:
        """The client that asks about topics."""
        return AdminClient(client_config(self._places))

    @cached_property
    def _asking(self) -> Consumer:
        return _consumer_of_ends(self._places)

    def reader(self, service: str, start: Mapping[Key, int]) -> Reader:
        """See ``Transport``."""
        return Reader(self._places, service, start)

    def writer(self, linger_ms: int = 5) -> Writer:
        """See ``Transport``."""
        return Writer(self._places, linger_ms)

    def ends(self, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
        """See ``Transport``."""
        return _ends(self._asking, self._places, wanted)

    def identities(self, topics: Iterable[str]) -> dict[str, str]:
        """See ``Transport``: the cluster's id and the topic's."""
        admin = self.admin
        try:
            cluster = admin.describe_cluster(request_timeout=DEADLINE_S).result().cluster_id
            names = {at_broker(self._places, topic): topic for topic in topics}
            found = admin.describe_topics(TopicCollection(list(names)), request_timeout=DEADLINE_S)
            return {names[name]: f"{cluster}/{future.result().topic_id}" for name, future in found.items()}
        except KafkaException as error:
            raise Unavailable(
                f"the broker at {self._places.bootstrap} does not tell its topics' ids: {error.args[0].str()}"
            ) from error


class Reader:
    """Reads assigned partitions from explicit offsets."""

    def __init__(self, places: Places, service: str, start: Mapping[Key, int]) -> None:
        self._answers, self._heard = 0, time.monotonic()
        self._consumer = Consumer(
            {
                **client_config(places),
                "group.id": _group(places, service),
                **READS,
                "statistics.interval.ms": STATISTICS_MS,
                "stats_cb": self._note_answers,
            }
        )
        self._places = places
        self._topics = {at_broker(places, topic): topic for topic, _ in start}
        self.position = dict(start)
        self._consumer.assign(self._partitions())

    def poll(self, timeout_s: float) -> list[Records]:
        """Return what has arrived, by partition, waiting at most ``timeout_s`` for the first record.

        Raises
        ------
        Unavailable
            When the broker reports an error that waiting does not cure, such as an offset out of range.
        """
        # consume(n, t) would wait the whole t for n records; this returns as soon as there is one.
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        grouped: dict[Key, Records] = {}
        for message in (first, *self._consumer.consume(BATCH - 1, 0)):
            if (error := message.error()) is not None:
                _raise_unless_transient(error)
                continue
            name, partition, offset = message.topic(), message.partition(), message.offset()
            if name is None or partition is None or offset is None:
                continue
            topic = self._topics[name]
            if (topic, partition) not in grouped:
                grouped[topic, partition] = Records(topic, partition, [], [])
            grouped[topic, partition].offsets.append(offset)
            grouped[topic, partition].values.append(message.value() or b"")
        for key, records in grouped.items():
            self.position[key] = records.offsets[-1] + 1
        if grouped:  # with many waiting here nothing is asked for
            self._heard = time.monotonic()
        return list(grouped.values())

    def lag(self) -> int | None:
        """Return records between our position and the end of the logs, None while an end is unknown.

        The client keeps the last end that it heard of: behind a broker that has fallen silent that says nothing.
        """
        if time.monotonic() - self._heard > SILENT_S:
            return None
        total = 0
        for (topic, part), offset in self.position.items():
            place = TopicPartition(at_broker(self._places, topic), part)
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            if high < 0:
                return None
            total += max(0, high - offset)
        return total

    def _note_answers(self, statistics: str) -> None:
        """Note whether answers came since the last look; served from ``poll``."""
        answers = sum(broker["rx"] for broker in json.loads(statistics)["brokers"].values())
        if answers != self._answers:
            self._answers, self._heard = answers, time.monotonic()

    def mirror(self) -> None:
        """Commit the positions to the group, for lag tools only; nothing here reads them back."""
        if self.position:
            self._consumer.commit(offsets=self._partitions(), asynchronous=True)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def _partitions(self) -> list[TopicPartition]:
        return [
            TopicPartition(at_broker(self._places, topic), part, offset)
            for (topic, part), offset in self.position.items()
        ]


class Writer:
    """Writes records, idempotently and in order; a delivery that fails for good stops the process."""

    def __init__(self, places: Places, linger_ms: int = 5) -> None:
        self._places = places
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {
                **client_config(places),
                **WRITES,
                "linger.ms": linger_ms,
            }
        )

    def send(self, topic: str, partition: int, key: str, values: Iterable[bytes]) -> None:
        """Queue records; waits while the queue is full (backpressure)."""
        name = at_broker(self._places, topic)
        for value in values:
            while True:
                try:
                    self._producer.produce(name, value, key, partition, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)
        self._check()

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every queued record is acknowledged.

        Raises
        ------
        Unavailable
            When the broker did not acknowledge in time.
        """
        left = self._producer.flush(timeout_s)
        self._check()
        if left:
            raise Unavailable(f"broker did not acknowledge {left} records within {timeout_s:.0f} s; is it running?")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed = error

    def _check(self) -> None:
        if self._failed is not None:
            raise Unavailable(f"broker refused a record: {self._failed.str()}; see the broker's log")


def _raise_unless_transient(error: KafkaError) -> None:
    if error.code() in {KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:  # noqa: SLF001
        return
    raise Unavailable(f"broker: {error.str()} ({error.name()}); the next start resumes from the checkpoint")


def ends(places: Places, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
    """Return first and next offset of each partition."""
    consumer = _consumer_of_ends(places)
    try:
        return _ends(consumer, places, wanted)
    finally:
        consumer.close()


def _consumer_of_ends(places: Places) -> Consumer:
    return Consumer({**client_config(places), "group.id": _group(places, "ends"), "enable.auto.commit": False})


def _ends(consumer: Consumer, places: Places, wanted: Iterable[Key]) -> dict[Key, tuple[int, int]]:
    try:
        return {
            (topic, part): _ends_of(consumer, TopicPartition(at_broker(places, topic), part)) for topic, part in wanted
        }
    except KafkaException as error:
        raise Unavailable(f"no answer from the broker at {places.bootstrap}: {error.args[0].str()}") from error


def _ends_of(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=DEADLINE_S, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in _SETTLING or time.monotonic() > until:
                raise
            time.sleep(0.02)
