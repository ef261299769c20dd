"""What is wrong, or worth knowing, about a file of market data, and in which row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from domain.errors import UsageError
from domain.events import NANOS_PER_SECOND


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    severity : ``fatal`` (the file is refused), ``warning`` or ``note``
    code : str
        A short, countable word (``order``, ``ohlc``, ``gap``).
    path : Path
    row : int or None
        1-based row of data in the file: a CSV's header is not counted, every line of frames is.
    message : str
        What is wrong.
    fix : str
        What to do about it; empty where nothing needs doing.
    """

    severity: Literal["fatal", "warning", "note"]
    code: str
    path: Path
    row: int | None
    message: str
    fix: str = ""

    def __str__(self) -> str:
        """Return one line: file, row, what is wrong, what to do.

        >>> print(Finding("fatal", "price", Path("a.csv"), 3, "price is -1.0", "remove the row"))
        a.csv: row 3 (line 4): price is -1.0; remove the row
        """
        return "".join(
            (
                f"{shown(self.path)}: ",
                "" if self.row is None else f"{self._place()}: ",
                _short(self.message),
                f"; {self.fix}" if self.fix else "",
            )
        )

    def _place(self) -> str:
        if self.path.suffix in {".jsonl", ".zst"}:
            return f"line {self.row}"
        if self.path.suffix == ".csv" and self.row is not None:
            return f"row {self.row} (line {self.row + 1})"
        return f"row {self.row}"


class FileRefused(UsageError):  # noqa: N818 - it names what happened to the file
    """A file of market data cannot be used; ``finding`` says where and why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


def refused(code: str, path: Path, row: int | None, message: str, fix: str) -> FileRefused:
    """Return the error for a fatal finding."""
    return FileRefused(Finding("fatal", code, path, row, message, fix))


def one_line(error: Exception) -> str:
    """Return a foreign error's message as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."  # noqa: PLR2004 - a line a person reads


def shown(path: Path) -> str:
    r"""Return a path for people, on one line whatever its name is.

    >>> shown(Path("a.csv")), shown(Path("a\nb.csv"))
    ('a.csv', "'a\\nb.csv'")
    """
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _short(message: str) -> str:
    """Return a message whose cell or list of columns may be anything."""
    text = message if message.isprintable() else " ".join(message.split())
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-90:]}"  # noqa: PLR2004


def utc(ts: int) -> str:
    """Return nanoseconds as a UTC time, for people.

    >>> utc(1_546_300_800_250_000_000)
    '2019-01-01 00:00:00.25'
    """
    moment = datetime.fromtimestamp(ts // NANOS_PER_SECOND, UTC).replace(tzinfo=None)
    text = moment.isoformat(" ")
    part = ts % NANOS_PER_SECOND
    return f"{text}.{part:09d}".rstrip("0") if part else text


def lasting(nanos: int) -> str:
    """Return a length of time for people.

    >>> lasting(60 * NANOS_PER_SECOND), lasting(36 * 3600 * NANOS_PER_SECOND), lasting(1_500_000)
    ('1m', '36h', '1.5ms')
    """
    for name, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if nanos >= size * NANOS_PER_SECOND and nanos % (size * NANOS_PER_SECOND) == 0:
            return f"{nanos // (size * NANOS_PER_SECOND)}{name}"
    return f"{nanos / 1e9:.3g}s" if nanos >= NANOS_PER_SECOND else f"{nanos / 1e6:.3g}ms"
