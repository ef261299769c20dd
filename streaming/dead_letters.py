"""Dead letters: records that were refused, sent to a topic of their own with where they came from and why.

A letter is acknowledged before the checkpoint that skips its record, so none is lost; a crash may repeat one, so a
reader counts a record once a service. The payload gives back the very bytes, so that a replay can send them again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec

from domain.errors import BadRecord, Unavailable
from domain.events import DeadLetter
from domain.topics import DEAD_LETTERS
from streaming.clock import Clock
from streaming.codec import decoded, encode
from streaming.transport import PATIENCE_S, Key, Records, Transport, Writer
from warehouse.control import Control

KEPT_BYTES = 700_000
"""Longest payload kept whole: in base64 it fills a record of the 1,000,000 bytes that producers and brokers allow."""

_TEXT_BYTES = 940_000  # escaped text of a JSON string may be six times as long as what it stands for
_MESSAGE = 500  # characters: an error may quote a megabyte

REPLAYED = "replayed"
"""Reason of the marker that a replay leaves behind: this record was sent again."""

_LETTER = msgspec.json.Decoder(DeadLetter)
_KEY: Key = (DEAD_LETTERS, 0)


class DeadLetters:
    """Sends refused records to their topic and counts them by reason.

    Attributes
    ----------
    totals : how often this service refused for each reason, ever; what a crash repeats counts again
    """

    def __init__(self, service: str, control: Control, writer: Writer) -> None:
        self._service, self._control, self._writer = service, control, writer
        self._counts: dict[str, int] = {}
        self.totals = {reason: n for (name, reason), n in control.dead_letters().items() if name == service}

    def refuse(self, records: Records, i: int, error: BadRecord) -> None:
        """Send record ``i`` of ``records`` away; the stream goes on."""
        letter = letter_of(self._service, records, i, error)
        self._writer.send(*_KEY, records.topic, [encode(letter)])
        for counts in (self._counts, self.totals):
            counts[error.reason] = counts.get(error.reason, 0) + 1

    def save(self) -> None:
        """Make what was refused since the last call safe, and add it to the counts; call before any checkpoint."""
        if self._counts:
            self._writer.flush()
        for reason, n in self._counts.items():
            self._control.count_dead_letter(self._service, reason, n)
        self._counts.clear()


def letter_of(service: str, records: Records, i: int, error: BadRecord) -> DeadLetter:
    """Return the letter for a refused record."""
    value = records.values[i]
    payload, encoding = _written(value[:KEPT_BYTES])
    return DeadLetter(
        service=service,
        reason=error.reason,
        message=str(error).encode("utf-8", "backslashreplace").decode()[:_MESSAGE],
        topic=records.topic,
        partition=records.partition,
        offset=records.offsets[i],
        payload=payload,
        encoding=encoding,
        size=len(value),
        sha256=hashlib.sha256(value).hexdigest(),
    )


def _written(value: bytes) -> tuple[str, str]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and len(encode(text)) <= _TEXT_BYTES:
        return text, "text"
    return base64.b64encode(value).decode("ascii"), "base64"


def payload_of(letter: DeadLetter) -> bytes | None:
    """Return the very bytes that were refused; None where only their beginning was kept.

    Raises
    ------
    BadRecord
        When the letter does not hold what its digest says.
    """
    try:
        value = letter.payload.encode() if letter.encoding == "text" else base64.b64decode(letter.payload)
    except ValueError as error:
        raise BadRecord("payload", f"the letter's payload is no {letter.encoding}") from error
    if letter.size > len(value):
        return None
    if hashlib.sha256(value).hexdigest() != letter.sha256:
        raise BadRecord("payload", "the letter's payload does not have its digest")
    return value


@dataclass(frozen=True)
class Filed:
    """A letter as it lies on the topic.

    Attributes
    ----------
    number : its offset there, which names it
    times : how often the same service refused the same record: more than once after a crash
    replayed : whether the record was sent again since
    """

    number: int
    letter: DeadLetter
    times: int = 1
    replayed: bool = False

    @property
    def record(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record; its own number where it never reached a topic."""
        letter = self.letter
        return letter.topic, letter.partition, letter.offset if letter.offset >= 0 else -1 - self.number


def read_letters(transport: Transport, clock: Clock, wanted: Callable[[DeadLetter], bool]) -> list[Filed]:
    """Return the wanted letters, newest first, each record once a service.

    Raises
    ------
    Unavailable
        When the topic cannot be read to its end.
    """
    found: dict[tuple[object, ...], Filed] = {}
    replayed: set[tuple[str, int, int]] = set()
    for number, letter in _letters(transport, clock):
        filed = Filed(number, letter)
        if letter.reason == REPLAYED:
            replayed.add((letter.topic, letter.partition, letter.offset))
        elif wanted(letter):
            before = found.pop((letter.service, *filed.record), None)
            if before is not None:
                filed = Filed(number, letter, before.times + 1)
            found[letter.service, *filed.record] = filed
    return [replace(filed, replayed=filed.record in replayed) for filed in reversed(found.values())]


def _letters(transport: Transport, clock: Clock) -> Iterator[tuple[int, DeadLetter]]:
    low, high = transport.ends([_KEY])[_KEY]
    reader = transport.reader("dead-letters", {_KEY: low})
    try:
        until = clock.monotonic() + PATIENCE_S
        while reader.position[_KEY] < high:
            if clock.monotonic() > until:
                raise Unavailable(f"cannot read {DEAD_LETTERS} to its end; is the broker running?")
            for records in reader.poll(0.5):
                until = clock.monotonic() + PATIENCE_S
                for offset, value in zip(records.offsets, records.values, strict=True):
                    with contextlib.suppress(BadRecord):  # a stranger's: there is nobody to refuse it to
                        yield offset, decoded(_LETTER, value)
    finally:
        reader.close()


def send_again(writer: Writer, filed: Filed, key: str) -> bool:
    """Send a letter's record to its topic once more and mark it; False where only its beginning was kept.

    Notes
    -----
    The record is acknowledged before its mark is sent: a crash in between sends it again at the next replay.
    """
    letter, value = filed.letter, payload_of(filed.letter)
    if value is None:
        return False
    writer.send(letter.topic, letter.partition, key, [value])
    writer.flush()
    topic, partition, offset = filed.record
    mark = DeadLetter("tidemill", REPLAYED, f"letter {filed.number} was sent again", topic, partition, offset, "")
    writer.send(*_KEY, topic, [encode(mark)])
    writer.flush()
    return True
