"""Where market data comes from: what a person asks for, and what follows from it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from domain.events import NANOS_PER_DAY, nanos_at
from domain.fields import Frozen, InstrumentId, Number, Whole, shown
from domain.spelling import meant

LIVE = ("binance", "kraken")
"""Real exchanges that have a connector of ours; each is the venue of its instruments."""

SOURCES = ("auto", *LIVE, "box", "simulated", "recorded")

CCXT = "ccxt:"
"""What the sources begin with that are real exchanges, too, read through the library ccxt."""

KRAKEN_TELLS, KRAKEN_KEEPS = 719, 660
"""Candles that Kraken tells, the newest that have ended, and those of our history: an hour is left for a training."""

FIRST_DAY, LAST_DAY = nanos_at(datetime(2000, 1, 1, tzinfo=UTC)), nanos_at(datetime(2100, 1, 1, tzinfo=UTC))
"""What markets and their histories lie within, ns since epoch UTC."""

FASTEST = 1_000_000.0
LONGEST_HISTORY = 3_650

_CCXT_PATTERN = re.compile(rf"^{CCXT}[a-z0-9_]+\Z")


def parse_source(value: str) -> str:
    """Return the source as it is, or say which there are.

    Raises
    ------
    ValueError
        When it is none of them.
    """
    if value not in SOURCES and not _CCXT_PATTERN.match(value):
        near = meant(value, SOURCES)
        raise ValueError(
            f"{shown(value)} is not a market{near}; write {', '.join(SOURCES)}, or ccxt:EXCHANGE, such as ccxt:okx"
        )
    return value


def is_live(source: str) -> bool:
    """Return whether a source is a real exchange: its prices are real, and it is the venue of its instruments.

    >>> is_live("kraken"), is_live("ccxt:okx"), is_live("box")
    (True, True, False)
    """
    return source in LIVE or source.startswith(CCXT)


def _moment(value: object) -> object:
    """Return a moment as pydantic reads it, unless it is a number, which says nothing of its unit."""
    if isinstance(value, (datetime, date, str)):
        return value
    raise ValueError(f"{shown(value)} is not a time; write a UTC time without quotes, such as 2025-01-08T00:00:00Z")


def parse_moment(moment: datetime) -> datetime:
    """Return a moment as it is, when a market can have it.

    Raises
    ------
    ValueError
        When it is not in 2000 to 2099.
    """
    if not FIRST_DAY <= nanos_at(moment) < LAST_DAY:
        raise ValueError(f"{moment.isoformat()} is not in 2000 to 2099; write a UTC time, such as 2025-01-08T00:00:00Z")
    return moment


Source = Annotated[str, AfterValidator(parse_source)]
OwnMarket = Annotated[str, AfterValidator(lambda value: parse_source(value) if value else "")]
"""A source, or nothing for the one that ``tidemill.toml`` names."""

Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(parse_moment)]


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
    speed: Number = Field(default=60.0, ge=0, le=FASTEST)
    seed: Whole = Field(default=7, ge=0, lt=2**63)
    opens: Moment = datetime(2025, 1, 8, tzinfo=UTC)
    history_days: Whole = Field(default=7, ge=1, le=LONGEST_HISTORY)
    record: bool = Field(default=False, strict=True)
    joins: dict[InstrumentId, datetime] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _history_isparse_moment(self) -> Market:
        if self.opens_ns - self.history_days * NANOS_PER_DAY < FIRST_DAY:
            raise ValueError(
                f"history_days = {self.history_days} before opens = {self.opens.isoformat()} reaches back beyond 2000; "
                "lower 'history_days'"
            )
        return self

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
