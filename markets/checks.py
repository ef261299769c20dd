"""Checks on import: reads recorded files once, judges them, and notes which piece holds whose rows."""

from __future__ import annotations

import math
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from domain.bars import MAX_FILL
from domain.errors import UsageError
from domain.events import NANOS_PER_DAY
from markets.findings import FileRefused, Finding, lasting, refused, utc
from markets.frames import FrameReader
from markets.ledger import Ledger
from markets.rows import Reader
from markets.source import Kind
from markets.tabular import CsvReader, ParquetReader

_NEARLY_ALL = 0.95
"""Share of distances between candles that must be multiples of the most common one."""


class Place(NamedTuple):
    """Rows of one instrument in one piece of one file, and their first and last time as in the file, ns."""

    file: int
    piece: int
    first: int
    last: int


@dataclass(frozen=True)
class Inspection:
    """What a set of files holds.

    Attributes
    ----------
    kind : trades or candles
    interval : length of a candle, ns; None for trades
    places : of each instrument, where its rows are, in order of time
    held : every instrument in the files, wanted or not
    findings : fatal ones first
    """

    kind: Kind
    interval: int | None
    places: dict[str, list[Place]]
    held: frozenset[str]
    findings: list[Finding]

    @property
    def fatal(self) -> list[Finding]:
        """The findings for which the files are refused."""
        return [finding for finding in self.findings if finding.severity == "fatal"]


def check(paths: Sequence[Path], venue: str = "recorded", interval: int | None = None) -> list[Finding]:
    """Return everything that is wrong with these files or worth knowing, fatal findings first.

    Parameters
    ----------
    paths
        Parquet, CSV, or frames (``.jsonl``, ``.jsonl.zst``).
    venue
        Of symbols that carry none.
    interval
        Length of a candle, ns; None infers it.
    """
    try:
        return inspect(open_files(paths, venue), None, interval).findings
    except FileRefused as error:
        return [error.finding]


def open_files(paths: Sequence[Path], venue: str) -> list[Reader]:
    """Open files, told apart by their suffix.

    Raises
    ------
    FileRefused
        When one is missing, a directory, of an unknown kind or unreadable, or when they mix trades and candles.
    """
    readers = [_reader(path, venue) for path in paths]
    for reader in readers[1:]:
        if reader.kind != readers[0].kind:
            raise refused("mixed", reader.path, None, f"holds {_what(reader)}, {readers[0].path} {_what(readers[0])}",
                          "give files of one kind")  # fmt: skip
    if not readers:
        raise UsageError("no recorded file is given; set market.path")
    return readers


def inspect(readers: Sequence[Reader], instruments: Sequence[str] | None, interval: int | None) -> Inspection:
    """Read files to their end and judge them.

    Parameters
    ----------
    instruments
        Judge only these; None means all.
    interval
        Length of a candle, ns; None infers it.

    Raises
    ------
    FileRefused
        When a row cannot be read at all. Everything else that is wrong is a fatal finding.
    """
    places: dict[str, list[Place]] = {}
    ledgers: dict[tuple[int, str], Ledger] = {}
    findings: list[Finding] = []
    held: set[str] = set()
    for file, reader in enumerate(readers):
        read = 0
        for piece in range(reader.pieces):
            rows = reader.read(piece)
            read += len(rows)
            held.update(rows.instruments)
            for instrument in rows.instruments:
                part = rows.of(instrument)
                if len(part) and (instruments is None or instrument in instruments):
                    ledger = ledgers.setdefault((file, instrument), Ledger(reader.path, reader.kind, instrument))
                    ledger.add(part)
                    place = Place(file, piece, int(part.ts[0]), int(part.ts[-1]))
                    places.setdefault(instrument, []).append(place)
        findings += reader.findings
        if not read:
            findings.append(Finding("fatal", "empty", reader.path, None, "holds no row", "give a file with data"))
        elif read < reader.lines and isinstance(reader, FrameReader):
            findings.append(Finding("warning", "frames", reader.path, None,
                                    f"{reader.lines - read:,} lines are no market trade and are left out"))  # fmt: skip
    interval, more = _interval(readers[0].kind, list(ledgers.values()), interval)
    for ledger in ledgers.values():
        more += ledger.findings(interval)
    for instrument, where in places.items():
        where.sort(key=lambda place: (place.first, place.file, place.piece))
        more += _overlaps([ledger for (_, name), ledger in ledgers.items() if name == instrument])
    severities = ("fatal", "warning", "note")
    findings = sorted(findings + more, key=lambda finding: severities.index(finding.severity))
    return Inspection(readers[0].kind, interval, places, frozenset(held), findings)


def _reader(path: Path, venue: str) -> Reader:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', error)})"
        raise refused("missing", path, None, what, "name one that is there, by market.path or --data") from error
    if stat.S_ISDIR(mode):
        raise refused("directory", path, None, "is a directory", "name its files one by one")
    if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
        raise refused("file", path, None, "is a pipe, a socket or a device", "save what it gives in a file")
    kinds: dict[str, Callable[[Path, str], Reader]] = {
        ".parquet": ParquetReader,
        ".csv": CsvReader,
        ".jsonl": FrameReader,
        ".jsonl.zst": FrameReader,
    }
    for suffix, reader in kinds.items():
        if path.name.lower().endswith(suffix):
            try:
                path.open("rb").close()
            except OSError as error:
                raise refused("unreadable", path, None, f"cannot be read ({error.strerror})", "allow it") from error
            return reader(path, venue)
    raise refused(
        "format", path, None, f"{path.suffix or 'no suffix'} is not a known format", f"give {', '.join(kinds)}"
    )


def _what(reader: Reader) -> str:
    return "trades" if reader.kind == "trades" else "candles"


def _interval(kind: Kind, ledgers: Sequence[Ledger], interval: int | None) -> tuple[int | None, list[Finding]]:
    """Return the length of a candle, and every instrument whose times do not fit it."""
    if kind == "trades" or not ledgers:
        return None, []
    found = []
    if interval is None:
        common: Counter[int] = Counter()
        for ledger in ledgers:
            for step, (count, _) in ledger.steps.items():
                common[step] += count
        if not common:
            text = "one candle does not tell its interval"
            return None, [Finding("fatal", "interval", ledgers[0].path, None, text, "give a longer file")]
        interval, text = _likely(common)
        found.append(Finding("note", "interval", ledgers[0].path, None, text))
    for ledger in ledgers:
        path, name = ledger.path, ledger.instrument
        off = [(row, step) for step, (_, row) in ledger.steps.items() if step % interval]
        far = [(row, step) for step, (_, row) in ledger.steps.items() if step > MAX_FILL * interval]
        if ledger.first_ts % interval:
            text = f"{name}: ts {utc(ledger.first_ts)} is not the start of an interval of {lasting(interval)}"
            found.append(Finding("fatal", "grid", path, ledger.first_row, text, "write each candle's OPEN time"))
        elif off:
            row, step = min(off)
            text = f"{name}: ts is {lasting(step)} after the candle above, no multiple of {lasting(interval)}"
            found.append(Finding("fatal", "grid", path, row, text, "give candles of one length a file, by OPEN time"))
        if far:
            row, step = min(far)
            text = f"{name}: a gap of {step / NANOS_PER_DAY:.1f} days ends here, longer than is ever filled"
            found.append(Finding("fatal", "gap", path, row, text, "cut the file there and use one part"))
    return interval, found


def _likely(common: Counter[int]) -> tuple[int, str]:
    """Return the length of a candle told by the distances between candles, and why.

    The most common distance, as long as nearly all others are multiples of it: the few that are not are faults. Where
    candles are so sparse that the most common distance is chance, the greatest length that divides every distance.

    >>> minute = 60_000_000_000
    >>> _likely(Counter({minute: 95, 3 * minute: 4, minute // 2: 1}))[0] == minute
    True
    >>> _likely(Counter({30: 5, 7: 4, 31: 4, 2: 4}))[0]
    1
    """
    interval = min(common, key=lambda step: (-common[step], step))
    fitting = sum(count for step, count in common.items() if step % interval == 0)
    if fitting >= _NEARLY_ALL * common.total():
        return (
            interval,
            f"candles of {lasting(interval)}, the distance of {common[interval] / common.total():.1%} of them",
        )
    interval = math.gcd(*common)
    return interval, f"candles of {lasting(interval)}, the length that divides every distance between them"


def _overlaps(ledgers: list[Ledger]) -> list[Finding]:
    """Return a finding for each file that begins before another of the same instrument ends."""
    ledgers = sorted(ledgers, key=lambda ledger: (ledger.first_ts, ledger.first_id))
    found = []
    for before, after in pairwise(ledgers):
        if (after.first_ts, after.first_id) <= (before.last_ts, before.last_id):
            text = f"{after.instrument}: begins at {utc(after.first_ts)}, before {before.path} ends"
            fix = "give each instrument's files one after the other, or one of them"
            found.append(Finding("fatal", "overlap", after.path, after.first_row, text, fix))
    return found
