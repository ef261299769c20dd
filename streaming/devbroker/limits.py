"""Limits that keep the broker responsive and its memory bounded, whatever a client sends or leaves unread."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PARTITIONS_IN_ALL = 2_000
"""Over all topics: each has an open file, and an answer about all of them is encoded in a fraction of a second."""

FEWEST_CONNECTIONS = 64
"""So many may be open whatever the limit of open files."""

RESERVED_FILES = 256
"""Descriptors kept for the process itself, for logs that are opened to be read, and for connections just accepted."""


@dataclass(frozen=True)
class Limits:
    """What clients may take.

    Attributes
    ----------
    produce_bytes : largest Produce request; Kafka's ``socket.request.max.bytes``
    request_bytes : largest request of any other kind
    received_bytes : of requests not answered yet, over all connections; beyond it the largest one is dropped
    unsent_bytes : of answers not read yet, over all connections; beyond it the one that waits longest is dropped
    connections : at most; beyond it the oldest one that never sent a request is dropped
    patience_s : seconds in which a first request comes, a request that has begun is complete, an answer is read
    """

    produce_bytes: int = 100 << 20
    request_bytes: int = 1 << 20
    received_bytes: int = 128 << 20
    unsent_bytes: int = 64 << 20
    connections: int = 10_000
    patience_s: float = 30.0
