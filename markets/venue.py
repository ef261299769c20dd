"""What an exchange's public interface is to Tidemill: where it answers, how it reads, how its history is paged.

A venue is stateless and opens nothing: requests go through the ``Rest`` it is given, frames come from whoever holds the
connection (``markets.live``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.errors import BadRecord
from domain.events import Trade
from domain.tables import BarTable, TradeTable
from markets.source import Resume


@dataclass(frozen=True)
class Address:
    """Where an exchange answers: the real one, or one in a box.

    Attributes
    ----------
    rest : base URL of its REST interface, without a slash at the end
    stream : base URL of its WebSocket interface, without a slash at the end
    """

    rest: str
    stream: str


class Rest(Protocol):
    """A client of an exchange's REST interface that keeps to its limits."""

    async def get(self, path: str, params: Mapping[str, str | int], weight: int) -> bytes:
        """Return the body of an answer: JSON.

        It waits until the venue's budget allows the request, and asks again, later each time and after ``Retry-After``
        where the exchange says one, while that may help.

        Raises
        ------
        UsageError
            When the exchange refuses the request itself (4xx): its own words, and the URL.
        Unavailable
            When it cannot be reached, is in maintenance or has banned this address, for longer than patience lasts.
        """


class Closing(Exception):  # noqa: N818 - it names what happens
    """The exchange announces that it will end this connection soon."""


class Notice(Exception):  # noqa: N818 - likewise
    """The exchange announces how it is: what is wrong with it, in a few words; none where all is well."""


class Venue(Protocol):
    """One exchange."""

    @property
    def name(self) -> str:
        """The venue in ``venue:SYMBOL``."""

    @property
    def address(self) -> Address:
        """Where the real one answers."""

    @property
    def weight_a_minute(self) -> int:
        """What requests may weigh together in a minute."""

    @property
    def candles_kept(self) -> int | None:
        """How many of the newest closed candles it tells of; None where it tells all."""

    @property
    def lifetime_s(self) -> float:
        """Seconds after which a connection is replaced before the exchange ends it; infinity where it never does."""

    @property
    def silence_s(self) -> float:
        """Seconds without any frame, pings included, after which a connection counts as dead."""

    def symbol(self, instrument: str) -> str:
        """Return the exchange's REST name of an instrument (``binance:BTC-USDT`` -> ``BTCUSDT``)."""

    def stream(self, base: str, instruments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the URL to connect to for these instruments' trades, and the messages to send once connected."""

    def read(self, frame: str | bytes) -> list[Trade]:
        """Return the trades of a frame, in its order; none where it is something else (heartbeat, acknowledgement).

        A frame may hold several trades, of several instruments. Event time is the exchange's.

        Raises
        ------
        Closing
            When it announces the end of the connection.
        Notice
            When it announces how it is.
        UsageError
            When it refuses a subscription: an unknown symbol.
        BadRecord
            When it is meant to be trades and cannot be read: the exchange has changed its format.
        """

    async def now(self, rest: Rest) -> int:
        """Return the exchange's clock, ns since epoch UTC."""

    async def check(self, rest: Rest, instruments: Sequence[str]) -> None:
        """Return when all instruments are traded there.

        Raises
        ------
        UsageError
            When one is unknown: its name, and close ones that exist.
        Unavailable
            When trading is halted.
        """

    def candles(self, rest: Rest, instrument: str, interval: int, start: int, end: int) -> AsyncIterator[BarTable]:
        """Yield the closed candles that end in ``(start, end]``, in order, a page at a time; ``ts`` is their END.

        Intervals without a trade may be absent, or flat with ``missing`` 1. See ``candles_kept``.

        Raises
        ------
        UsageError
            When the venue has no candles of this length (ns).
        """

    def trades(self, rest: Rest, instrument: str, after: Resume) -> AsyncIterator[TradeTable]:
        """Yield the trades newer than ``after``, in order of their ids, a page at a time, until there is none yet.

        With ``after.after_trade_id`` newer means of a higher id; without, of a later time. Ids ascend strictly.
        """


def changed(venue: str, what: str) -> BadRecord:
    """Return the error that something an exchange sends is not written as it was."""
    return BadRecord("schema", f"{venue}: {what}; has the exchange changed its format? look for an update")
