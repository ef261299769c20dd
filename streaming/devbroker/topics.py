"""The topics: their names, identities and settings on disk, and the logs of their partitions."""

from __future__ import annotations

import base64
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from kio.schema.errors import ErrorCode

from domain.errors import BadState
from streaming.devbroker import files
from streaming.devbroker.limits import MAX_PARTITIONS_IN_ALL
from streaming.devbroker.log import Fsync, PartitionLog
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.settings import checked, log_settings
from streaming.devbroker.topic import Topic

MAX_PARTITIONS = 1000
"""Of one topic: each has an open file, and a laptop has few thousands of those."""

PRODUCER_IDS_RESERVED = 1000
"""Producer ids put on disk ahead of use, so that one is never given out twice, and rarely costs a write."""

_NAME = re.compile(r"^(?!\.\.?$)[a-zA-Z0-9._-]{1,249}$")


class Topics:
    """All topics of a data directory, opened.

    Parameters
    ----------
    data
        The data directory. What is unfinished there (half a deletion) is finished.
    fsync
        Of the logs, see `PartitionLog`.
    max_partitions
        Of all topics together; beyond it none is created.

    Raises
    ------
    BadState
        When the catalog on disk cannot be read.
    """

    def __init__(self, data: Path, fsync: Fsync, max_partitions: int = MAX_PARTITIONS_IN_ALL) -> None:
        self.max_partitions = max_partitions
        self._catalog = data / "catalog.json"
        self._directory = data / "topics"
        self._fsync: Fsync = fsync
        self._topics: dict[str, Topic] = {}
        self._logs: dict[tuple[str, int], PartitionLog] = {}
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._next_producer = self._reserved_producers = 0
        if self._catalog.exists():
            self._read()
        self._store(self._topics)
        self._directory.mkdir(exist_ok=True)
        kept = {topic.directory for topic in self._topics.values()}
        for path in self._directory.iterdir():
            if path.name not in kept:
                shutil.rmtree(path)
        for topic in self._topics.values():
            self._logs |= self._opened(topic)

    def _read(self) -> None:
        try:
            catalog = json.loads(self._catalog.read_bytes())
            self.cluster_id = catalog["cluster_id"]
            self._next_producer = self._reserved_producers = catalog["producers"]
            self._topics = {topic["name"]: Topic(**topic) for topic in catalog["topics"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadState(f"{self._catalog} cannot be read ({error}); restore it or remove the directory") from error

    def _store(self, topics: dict[str, Topic]) -> None:
        """Put the catalog on disk, and only then take the topics for given."""
        catalog = {
            "cluster_id": self.cluster_id,
            "producers": self._reserved_producers,
            "topics": [asdict(topic) for topic in topics.values()],
        }
        files.replace(self._catalog, json.dumps(catalog, indent=1).encode())
        self._topics = topics

    def _opened(self, topic: Topic) -> dict[tuple[str, int], PartitionLog]:
        """Return the logs of a topic that were not open yet."""
        settings = log_settings(topic.settings)
        directory = self._directory / topic.directory
        return {
            (topic.name, index): PartitionLog(directory / str(index), settings, self._fsync)
            for index in range(topic.partitions)
            if (topic.name, index) not in self._logs
        }

    def _add(self, topic: Topic) -> None:
        """Put a topic, or a wider one, on disk, and only then let clients find it.

        Raises
        ------
        Refusal
            KAFKA_STORAGE_ERROR when the disk, or the limit of open files, does not allow it.
        """
        try:
            logs = self._opened(topic)
            self._store({**self._topics, topic.name: topic})
        except OSError as error:
            raise Refusal(ErrorCode.kafka_storage_error, str(error)) from error
        self._logs = {**self._logs, **logs}  # not in place: the loop that serves clients may be walking through it

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def __contains__(self, name: object) -> bool:
        return name in self._topics

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def logs(self) -> Mapping[tuple[str, int], PartitionLog]:
        """The log of every (topic, partition)."""
        return self._logs

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises
        ------
        Refusal
            UNKNOWN_TOPIC_OR_PARTITION, or INVALID_TOPIC_EXCEPTION for what can be no topic's name.
        """
        if topic := self._topics.get(name):
            return topic
        _check_name(name)
        raise Refusal(ErrorCode.unknown_topic_or_partition)

    def log(self, name: str, partition: int) -> PartitionLog:
        """Return the log of a partition.

        Raises
        ------
        Refusal
            UNKNOWN_TOPIC_OR_PARTITION.
        """
        log = self._logs.get((name, partition))
        if log is None:
            raise Refusal(ErrorCode.unknown_topic_or_partition)
        return log

    def create(self, name: str, partitions: int, settings: Mapping[str, str | None], *, dry: bool = False) -> Topic:
        """Create a topic; it is on disk when this returns.

        Parameters
        ----------
        partitions
            -1 means one.
        dry
            Only check whether it could be.

        Raises
        ------
        Refusal
            INVALID_TOPIC_EXCEPTION, TOPIC_ALREADY_EXISTS, INVALID_PARTITIONS or INVALID_CONFIG.
        """
        _check_name(name)
        if name in self._topics:
            raise Refusal(ErrorCode.topic_already_exists, f"Topic '{name}' already exists.")
        count = 1 if partitions == -1 else partitions
        self._check_partitions(count, count)
        topic = Topic(name, str(uuid.uuid4()), count, checked(settings))
        if not dry:
            self._add(topic)
        return topic

    def widen(self, name: str, partitions: int, *, dry: bool = False) -> None:
        """Give a topic more partitions.

        Raises
        ------
        Refusal
            UNKNOWN_TOPIC_OR_PARTITION or INVALID_PARTITIONS.
        """
        old = self.topic(name)
        if partitions <= old.partitions:
            raise Refusal(ErrorCode.invalid_partitions, f"Topic '{name}' already has {old.partitions} partitions.")
        self._check_partitions(partitions, partitions - old.partitions)
        if not dry:
            self._add(Topic(old.name, old.id, partitions, old.settings))

    def _check_partitions(self, count: int, more: int) -> None:
        if not 0 < count <= MAX_PARTITIONS:
            raise Refusal(ErrorCode.invalid_partitions, f"{count} partitions: from 1 to {MAX_PARTITIONS}")
        if len(self._logs) + more > self.max_partitions:
            why = f"{more} partitions more: {len(self._logs)} of all topics are open, {self.max_partitions} may be"
            raise Refusal(ErrorCode.invalid_partitions, why)

    def delete(self, name: str) -> Topic:
        """Delete a topic, its logs unharmed; a crash before they are removed is finished at the next start.

        Raises
        ------
        Refusal
            UNKNOWN_TOPIC_OR_PARTITION.
        """
        topic = self.topic(name)
        self._store({other.name: other for other in self if other is not topic})
        return topic

    def close_logs(self, topic: Topic) -> None:
        """Close the logs of a deleted topic; their readers are woken."""
        for index in range(topic.partitions):
            self._logs.pop((topic.name, index)).close()

    def remove_logs(self, topic: Topic) -> None:
        """Remove the closed logs of a deleted topic from the disk."""
        shutil.rmtree(self._directory / topic.directory, ignore_errors=True)

    def new_producer(self) -> int:
        """Return a producer id nobody had before."""
        if self._next_producer >= self._reserved_producers:
            self._reserved_producers += PRODUCER_IDS_RESERVED
            self._store(self._topics)
        self._next_producer += 1
        return self._next_producer - 1

    def close(self) -> None:
        """Close every log."""
        for log in self._logs.values():
            log.close()


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise Refusal(ErrorCode.invalid_topic_exception, f"{name[:249]!r}: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'")
