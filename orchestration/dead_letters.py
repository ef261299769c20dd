"""What a person does with dead letters: list them, look at one, send some again."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from domain import topics
from domain.config import Project
from domain.errors import BadRecord, UsageError
from domain.services import SERVICES
from domain.spelling import meant
from orchestration.settings import read_places, read_project
from streaming.clock import Clock, SystemClock
from streaming.dead_letters import Filed, payload_of, read_letters, send_again
from streaming.transport import Transport

_SHOWN = 60  # characters of a payload in the table


def find_letters(
    transport: Transport, clock: Clock, reason: str = "", service: str = "", topic: str = ""
) -> list[Filed]:
    """Return the letters that match what is not empty, newest first."""
    return read_letters(
        transport,
        clock,
        lambda letter: (
            (not reason or letter.reason == reason)
            and (not service or letter.service == service)
            and (not topic or letter.topic == topic)
        ),
    )


def list_letters(reason: str, service: str, topic: str, limit: int, *, as_json: bool) -> None:
    """Print the newest letters, and how many there are of each service and reason.

    Raises
    ------
    UsageError
        When there is no such service or topic.
    """
    _demand_known(service, topic)
    found = find_letters(_transport(), SystemClock(), reason, service, topic)
    counts = Counter((filed.letter.service, filed.letter.reason) for filed in found)
    if as_json:
        letters = [described(filed) for filed in found[:limit]]
        sums = [{"service": s, "reason": r, "n": n} for (s, r), n in sorted(counts.items())]
        print(json.dumps({"total": len(found), "counts": sums, "letters": letters}))  # noqa: T201
        return
    console = Console()
    table = Table("id", "service", "reason", "record", "sent again", "payload", box=SIMPLE_HEAD)
    for filed in found[:limit]:
        letter = filed.letter
        where = f"{letter.topic}/{letter.partition}@{letter.offset}"
        shown = letter.payload[:_SHOWN].encode("unicode_escape").decode()
        table.add_row(str(filed.number), letter.service, letter.reason, where, "yes" if filed.replayed else "", shown)
    console.print(table)
    words = ", ".join(f"{n:,} {s} {r}" for (s, r), n in counts.most_common()) or "none"
    console.print(f"{len(found):,} dead letters: {words}", markup=False)


def show_letter(number: int) -> None:
    """Print all of one letter.

    Raises
    ------
    UsageError
        When there is no letter of this number.
    """
    filed = _by_number(find_letters(_transport(), SystemClock()), number)
    print(json.dumps(described(filed) | {"message": filed.letter.message}, indent=2))  # noqa: T201


def described(filed: Filed) -> dict[str, Any]:
    """Return a letter as JSON has it."""
    letter = filed.letter
    return {
        "id": filed.number,
        "service": letter.service,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "times": filed.times,
        "replayed": filed.replayed,
        "size": letter.size,
        "sha256": letter.sha256,
        "encoding": letter.encoding,
        "payload": letter.payload,
    }


def replay_letters(numbers: list[int], reason: str, service: str, topic: str, *, again: bool, dry_run: bool) -> None:
    """Send chosen letters' records to their topics again, oldest first, and say how many.

    Raises
    ------
    UsageError
        When nothing chooses them, a number names none, or there is no such service or topic.
    """
    if not (numbers or reason or service or topic):
        raise UsageError(
            "dead-letters replay: nothing chooses any; name letters by id, or by --reason, --service, --topic"
        )
    _demand_known(service, topic)
    places = read_places()
    project, transport = read_project(places), _transport()
    found = find_letters(transport, SystemClock(), reason, service, topic)
    if numbers:
        found = [_by_number(found, number) for number in sorted(set(numbers), reverse=True)]
    sent, skipped = resend(transport, project, found, again=again, dry_run=dry_run)
    words = "would be sent again" if dry_run else "sent again"
    print(f"{sent:,} records {words}{skipped}; {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")  # noqa: T201


def resend(
    transport: Transport, project: Project, found: list[Filed], *, again: bool, dry_run: bool
) -> tuple[int, str]:
    """Send letters' records again; return how many were, and in words why others were not.

    A record that several services refused is sent once.
    """
    writer = transport.writer()
    done: set[tuple[str, int, int]] = set()
    before = cut = frames = 0
    for filed in found[::-1]:
        if filed.record in done:
            continue
        if filed.replayed and not again:
            before += 1
            continue
        if filed.letter.partition < 0:
            frames += 1
            continue
        whole = _is_whole(filed)
        cut += not whole
        if whole:
            done.add(filed.record)
            if not dry_run:
                partition = filed.letter.partition
                names = project.instruments
                send_again(writer, filed, names[partition] if partition < len(names) else filed.letter.topic)
    skipped = f", {before:,} were before (--again sends them once more)" if before else ""
    skipped += f", {frames:,} are frames of an exchange: it was asked for their trades" if frames else ""
    skipped += f", {cut:,} are kept only in part: take them from their topic" if cut else ""
    return len(done), skipped


def _demand_known(service: str, topic: str) -> None:
    for option, name, known in (("--service", service, SERVICES), ("--topic", topic, topics.BY_INSTRUMENT)):
        if name and name not in known:
            raise UsageError(f"{option} {name!r}{meant(name, known)}; write one of {', '.join(known)}")


def _is_whole(filed: Filed) -> bool:
    try:
        return payload_of(filed.letter) is not None
    except BadRecord:
        return False


def _by_number(found: list[Filed], number: int) -> Filed:
    for filed in found:
        if filed.number == number:
            return filed
    raise UsageError(f"there is no dead letter {number} here; 'tidemill dead-letters list' shows their ids")


def _transport() -> Transport:
    from streaming.kafka import Kafka

    return Kafka(read_places())
