"""Where market data comes from: what a person asks for, and what follows from it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from domain.events import NANOS_PER_DAY, nanos_at
from domain.fields import Frozen, InstrumentId

LIVE = ("binance", "kraken")
"""Real exchanges that have a connector of ours; each is the venue of its instruments."""

SOURCES = ("auto", *LIVE, "box", "simulated", "recorded")

CCXT = "ccxt:"
"""What the sources begin with that are real exchanges, too, read through the library ccxt."""

KRAKEN_TELLS, KRAKEN_KEEPS = 719, 660
"""Candles that Kraken tells, the newest that have ended, and those of our history: an hour is left for a training."""

_CCXT_PATTERN = re.compile(rf"^{CCXT}[a-z0-9_]+\Z")


def parse_source(value: str) -> str:
    """Return the source as it is, or say which there are.

    Raises
    ------
    ValueError
        When it is none of them.
    """
    if value not in SOURCES and not _CCXT_PATTERN.match(value):
        raise ValueError(f"{value!r} is no market; write {', '.join(SOURCES)}, or ccxt:EXCHANGE, such as ccxt:okx")
    return value


def is_live(source: str) -> bool:
    """Return whether a source is a real exchange: its prices are real, and it is the venue of its instruments.

    >>> is_live("kraken"), is_live("ccxt:okx"), is_live("box")
    (True, True, False)
    """
    return source in LIVE or source.startswith(CCXT)


Source = Annotated[str, AfterValidator(parse_source)]


class Market(Frozen):
    """Where market data comes from.

    Attributes
    ----------
    source : str
        ``binance`` or ``kraken``: the live exchange. ``ccxt:EXCHANGE``: another one, through ccxt. ``box``: an
        exchange in a box, on this machine, with made-up prices, through the same connectors. ``auto``: a live exchange
        where one answers, otherwise the box; which one, is settled when a home begins. ``simulated``: the made-up
        market without an exchange around it. ``recorded``: files.
    path : file or files of recorded trades, candles or frames (recorded only)
    speed : event seconds per wall second (not of live exchanges); 0 means as fast as the readers can follow
    seed : of the simulated market
    opens : where history ends and the stream begins, UTC; a live market's is settled when a home begins
    history_days : days of history before that, used for the first training
    record : whether what an exchange sends is recorded, below ``recordings`` in the home
    joins : when an instrument's own stream began that joined later, UTC; a home keeps them
    """

    source: Source = "simulated"
    path: tuple[str, ...] = ()
    speed: float = Field(default=60.0, ge=0)
    seed: int = 7
    opens: datetime = datetime(2025, 1, 8, tzinfo=UTC)
    history_days: int = Field(default=7, ge=1)
    record: bool = False
    joins: dict[InstrumentId, datetime] = Field(default_factory=dict)

    @property
    def opens_ns(self) -> int:
        """The opening, ns since epoch UTC."""
        return nanos_at(self.opens)

    def joined_ns(self, instrument: str) -> int | None:
        """Return when an instrument joined, ns since epoch UTC; None for those of the opening."""
        joined = self.joins.get(instrument)
        return None if joined is None else nanos_at(joined)

    def history_ns(self, interval: int) -> int:
        """Return how far history reaches back, ns, for bars of this length (ns)."""
        wanted = self.history_days * NANOS_PER_DAY
        return min(wanted, KRAKEN_KEEPS * interval) if self.venue == "kraken" else wanted

    @property
    def tells_days(self) -> bool:
        """Whether a day that has closed can be had once more from history; not promised of what ccxt reads."""
        return self.source != "kraken" and not self.source.startswith(CCXT)

    @property
    def live(self) -> bool:
        """Whether it is a real exchange."""
        return is_live(self.source)

    @property
    def simulated(self) -> bool:
        """Whether the prices are made up."""
        return self.source in {"auto", "box", "simulated"}

    @property
    def venue(self) -> str:
        """The venue of instruments that name none; of files, each says its own."""
        if self.live:
            return self.source.removeprefix(CCXT)
        return "simulated" if self.simulated else ""
