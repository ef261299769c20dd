"""What crosses a topic: trades, bars, predictions, announcements and dead letters, as flat JSON records.

All times are int64 nanoseconds since the epoch, UTC. An instrument is ``venue:SYMBOL`` (``binance:BTC-USDT``)
everywhere: as record key, partition, line and table value.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, NewType

import msgspec
from msgspec import Meta

Instrument = NewType("Instrument", str)
Nanos = NewType("Nanos", int)

NANOS_PER_SECOND = 1_000_000_000
NANOS_PER_MINUTE = 60 * NANOS_PER_SECOND
NANOS_PER_DAY = 86_400 * NANOS_PER_SECOND

Time = Annotated[int, Meta(ge=1, le=2**62)]
"""A time that can be one: until the year 2116, so that a horizon or a week more never overflows."""

Count = Annotated[int, Meta(ge=0, le=2**62)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanos_at(moment: datetime) -> int:
    """Return a moment as ns since epoch UTC, exact to its microsecond; UTC where it names no zone.

    >>> nanos_at(datetime(1970, 1, 2, 0, 0, 0, 1)) == NANOS_PER_DAY + 1_000
    True
    """
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1_000


BUY, SELL, UNKNOWN = 1, -1, 0
"""The taker's side of a trade."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One execution on an exchange.

    Attributes
    ----------
    instrument : ``venue:SYMBOL``
    ts_event : int
        The exchange's trade time, ns since epoch UTC.
    trade_id : int
        The exchange's number of the trade, increasing per instrument.
    price : float
        Quote currency per unit, > 0.
    size : float
        Base units (contracts on coin-margined perpetuals), > 0.
    side : int
        The taker's side: 1 buy, -1 sell, 0 unknown.
    """

    instrument: str
    ts_event: Time
    trade_id: Count
    price: float
    size: float
    side: Annotated[int, Meta(ge=-1, le=1)]


class Bar(msgspec.Struct, frozen=True, gc=False):
    """What happened in one closed interval ``[ts_event - interval, ts_event)``.

    Attributes
    ----------
    ts_event : int
        The END of the interval, ns since epoch UTC: the first moment at which all of the bar is known.
    open, high, low, close : float
        Quote currency per unit, > 0. In an interval without a trade all four are the previous close.
    volume, buy_volume, sell_volume : float
        Base units; buy and sell by the taker's side, both 0 where the source does not tell.
    vwap : float
        Volume-weighted average price; the close where there was no volume or the source does not tell.
    trades : float
        Number of trades; 0 where the source does not tell.
    missing : float
        1 when the interval had no trade and was filled forward, else 0.
    """

    instrument: str
    ts_event: Time
    open: float
    high: float
    low: float
    close: float
    volume: float
    buy_volume: float = 0.0
    sell_volume: float = 0.0
    vwap: float = 0.0
    trades: float = 0.0
    missing: float = 0.0


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One answer of the model that served: a pure function of the vector and the version.

    Attributes
    ----------
    prediction_id : str
        ``instrument/ts_event/horizon_s``: a replay repeats it, never adds one.
    ts_event : int
        The vector's time, ns since epoch UTC.
    horizon_s : int
        How far ahead the targets lie, seconds.
    price_change : float
        Expected log return over the horizon, basis points.
    direction : float
        Probability that the price rises, in (0, 1).
    volatility : float
        Expected log realised volatility, ``ln(rms one-bar return in bp + 0.1)``.
    model_version, n_learned : int
        Which version answered, and how many examples it had learned.
    model_watermark : int
        Availability time of the newest example that the version had learned, ns.
    predicted_at : int
        Wall clock of the predictor, ns; for latency only.
    """

    prediction_id: str
    instrument: str
    ts_event: Time
    horizon_s: Annotated[int, Meta(ge=1, le=2**31)]
    price_change: float
    direction: float
    volatility: float
    model_version: Count
    n_learned: Count
    model_watermark: Count
    predicted_at: Count

    @property
    def model_age_s(self) -> float:
        """Seconds of event time between the newest label the model knew and the question."""
        return (self.ts_event - self.model_watermark) / NANOS_PER_SECOND


class Announcement(msgspec.Struct, frozen=True):
    """Wakes the predictors: a version of this line was published. The control database is the truth."""

    line: str
    version: int
    watermark: int
    n_learned: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that was refused, with where it came from and why.

    Attributes
    ----------
    service, reason, message : who refused it, for which countable reason, in which words
    topic, partition, offset : where it stands; offset -1 when it never reached a topic (a candle from a source), and
        partition -1 when it is no record of the topic (a frame of an exchange that cannot be read)
    payload : str
        The record's value: as text where that gives back the very bytes, otherwise in base64.
    encoding : ``text`` or ``base64``
    size, sha256 : of the whole value; ``payload`` is only its beginning where it is larger than ``KEPT_BYTES``
    """

    service: str
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    payload: str
    encoding: str = "text"
    size: int = 0
    sha256: str = ""
