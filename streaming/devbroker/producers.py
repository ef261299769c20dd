"""What a partition remembers of its idempotent producers, to drop a repeated batch and to notice a missing one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kio.schema.errors import ErrorCode

from streaming.devbroker.batches import NO_PRODUCER, Header
from streaming.devbroker.refusals import Refusal

REMEMBERED = 5
"""Batches a producer may have in flight at once (``max.in.flight.requests.per.connection``), hence may repeat."""

EXPIRES_MS = 86_400_000
"""A producer not heard of for a day is forgotten, as ``producer.id.expiration.ms`` of Apache Kafka has it."""

MOST = 1_000
"""Producers remembered of a partition; beyond it the one not heard of for longest is forgotten."""

_SEQUENCES = 1 << 31
"""Sequence numbers run from 0 to 2**31 - 1 and around."""

Snapshot = list[tuple[int, int, list[tuple[int, int, int]]]]


@dataclass
class _Producer:
    """Epoch of a producer and its newest batches as (first sequence, last sequence, base offset)."""

    epoch: int
    batches: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    seen_ms: int = 0


class Producers:
    """The idempotent producers of one partition."""

    def __init__(self) -> None:
        self._known: dict[int, _Producer] = {}

    def repeated(self, header: Header) -> int | None:
        """Return the base offset of a batch that is here already, or None for the next one in order.

        Raises
        ------
        Refusal
            INVALID_PRODUCER_EPOCH for an older epoch, OUT_OF_ORDER_SEQUENCE_NUMBER for a gap or a repetition too old
            to be remembered.
        """
        if header.producer_id == NO_PRODUCER:
            return None
        producer = self._known.get(header.producer_id)
        if producer is None:  # its batches may have aged out of the log: any sequence starts it
            return None
        if header.producer_epoch < producer.epoch:
            raise Refusal(ErrorCode.invalid_producer_epoch)
        if header.producer_epoch > producer.epoch:
            if header.base_sequence:
                raise Refusal(ErrorCode.out_of_order_sequence_number, "a new epoch starts at sequence 0")
            return None
        last = _last_sequence(header)
        for first_known, last_known, base_offset in producer.batches:
            if (first_known, last_known) == (header.base_sequence, last):
                return base_offset
        expected = (producer.batches[-1][1] + 1) % _SEQUENCES
        if header.base_sequence != expected:
            raise Refusal(
                ErrorCode.out_of_order_sequence_number,
                f"producer {header.producer_id}: sequence {header.base_sequence}, expected {expected}",
            )
        return None

    def remember(self, header: Header, base_offset: int, now_ms: int) -> None:
        """Note a batch that has just been appended or found in the log."""
        if header.producer_id == NO_PRODUCER:
            return
        producer = self._known.pop(header.producer_id, None)
        if producer is None or producer.epoch != header.producer_epoch:
            producer = _Producer(header.producer_epoch)
        self._known[header.producer_id] = producer  # the last one now
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        producer.batches.append((header.base_sequence, _last_sequence(header), base_offset))
        producer.seen_ms = now_ms

    def forget_before(self, oldest_ms: int) -> None:
        """Forget the producers not heard of since."""
        self._known = {key: known for key, known in self._known.items() if known.seen_ms >= oldest_ms}

    def snapshot(self) -> Snapshot:
        """Return everything remembered, as plain lists."""
        return [(key, known.epoch, list(known.batches)) for key, known in self._known.items()]

    def restore(self, snapshot: Snapshot, now_ms: int) -> None:
        """Replace everything remembered by a snapshot; all of it counts as heard of just now."""
        self._known = {
            key: _Producer(epoch, deque(map(tuple, batches), maxlen=REMEMBERED), now_ms)  # type: ignore[arg-type]
            for key, epoch, batches in snapshot
        }


def _last_sequence(header: Header) -> int:
    return (header.base_sequence + header.last_offset_delta) % _SEQUENCES
