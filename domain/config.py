"""What to predict and with which models (``Project``), and where things are (``Places``), as frozen values.

Reading ``tidemill.toml`` and the environment is the entry points' business (``orchestration.settings``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND, nanos_at

INSTRUMENT_PATTERN = re.compile(r"^[a-z0-9_]+:[A-Z0-9][A-Z0-9._-]*\Z")
_UNITS = {"ms": 1_000_000, "s": NANOS_PER_SECOND, "m": 60 * NANOS_PER_SECOND, "h": 3600 * NANOS_PER_SECOND}
_UNITS["d"] = 24 * _UNITS["h"]


def parse_duration(value: object) -> int:
    """Return nanoseconds from ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"7d"`` or an int of nanoseconds.

    >>> parse_duration("5m") // NANOS_PER_SECOND
    300

    Raises
    ------
    ValueError
        When the text is not a number and a unit, or is not positive.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(value).strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit, such as 30s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def parse_instrument(value: str) -> str:
    """Return the instrument as it is, or say how one is written.

    Raises
    ------
    ValueError
        When it is not ``venue:SYMBOL``.
    """
    if not INSTRUMENT_PATTERN.match(value):
        raise ValueError(f"{value!r} is not an instrument; write venue:SYMBOL, such as binance:BTC-USDT")
    return value


def with_driver(url: str) -> str:
    """Return a database's URL with the one PostgreSQL driver that Tidemill and Dagster share.

    >>> with_driver("postgresql://mill@db/mill")
    'postgresql+psycopg2://mill@db/mill'
    """
    scheme, rest = url.partition("://")[::2]
    return f"postgresql+psycopg2://{rest}" if scheme in {"postgres", "postgresql"} else url


def parse_postgresql(url: str) -> str:
    """Return a PostgreSQL URL with its driver, or nothing for none; the message repeats no password.

    Raises
    ------
    ValueError
        When it is of another database.
    """
    if url and not with_driver(url).startswith("postgresql+psycopg2://"):
        raise ValueError(
            f"{url.partition('://')[0]!r} is no PostgreSQL; write postgresql://user:password@host/database"
        )
    return with_driver(url)


Duration = Annotated[int, BeforeValidator(parse_duration)]
InstrumentId = Annotated[str, AfterValidator(parse_instrument)]
PostgresqlUrl = Annotated[str, AfterValidator(parse_postgresql)]
TopicPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=200)]


class Frozen(BaseModel):
    """A value: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Source = Literal["auto", "binance", "kraken", "box", "simulated", "recorded"]

LIVE = ("binance", "kraken")
"""Sources that are real exchanges: their prices are real, and each is the venue of its instruments."""

KRAKEN_KEEPS = 660
"""Candles of history at Kraken, which tells the newest 719 that have ended: an hour is left for a first training."""

SETTLED = ("auto", *LIVE)
"""Sources of which a home knows more than ``tidemill.toml``: which exchange it is, or when its stream began."""


class Market(Frozen):
    """Where market data comes from.

    Attributes
    ----------
    source : str
        ``binance`` or ``kraken``: the live exchange. ``box``: an exchange in a box, on this machine, with made-up
        prices, through the same connectors. ``auto``: a live exchange where one answers, otherwise the box; which one,
        is settled when a home begins. ``simulated``: the made-up market without an exchange around it. ``recorded``:
        files.
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
    joins: dict[InstrumentId, datetime] = {}

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
        return min(wanted, KRAKEN_KEEPS * interval) if self.source == "kraken" else wanted

    @property
    def tells_days(self) -> bool:
        """Whether a day that has closed can be had once more from history."""
        return self.source != "kraken"

    @property
    def simulated(self) -> bool:
        """Whether the prices are made up."""
        return self.source in {"auto", "box", "simulated"}

    @property
    def venue(self) -> str:
        """The venue of instruments that name none; of files, each says its own."""
        return self.source if self.source in LIVE else "simulated" if self.simulated else ""


class Model(Frozen):
    """One member of the fleet.

    Attributes
    ----------
    name : unique within the project
    kind : ``rls`` (recursive least squares, compiled) or ``river`` (any River estimator by name)
    targets : which targets it learns
    forgetting : of ``rls``: weight of a label decays by this factor with each newer one
    clip : of ``rls``: bound of the scaled features
    estimator : of ``river``: dotted names and arguments, see ``domain.river``
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Literal["rls", "river"]
    targets: tuple[Literal["price_change", "direction", "volatility"], ...]
    forgetting: float = Field(default=1 - 3e-5, gt=0.9, le=1.0)
    clip: float = Field(default=8.0, gt=0)
    estimator: str = ""

    @model_validator(mode="after")
    def _river_needs_an_estimator(self) -> Model:
        if (self.kind == "river") != bool(self.estimator):
            raise ValueError(f"model {self.name}: 'estimator' belongs to kind = \"river\", and only there")
        return self


class Publish(Frozen):
    """When the trainer publishes a version: after so many examples or so long, whichever comes first.

    ``every = 0`` leaves the clock out, so that the versions of a replay are a function of its data.
    """

    examples: int = Field(default=5_000, ge=1)
    every_s: float = Field(default=1.0, ge=0)


class Project(Frozen):
    """What to predict and with which models: all of ``tidemill.toml``.

    Attributes
    ----------
    instruments : ``venue:SYMBOL``, or ``SYMBOL`` of the market's venue, in partition order: append, never reorder
    interval : length of a bar
    lateness : how long after a bar's end its trades may still arrive, event time
    horizon : how far ahead the targets lie, a multiple of the interval
    fleet : the first model of each target is its champion, the others are challengers
    """

    instruments: tuple[InstrumentId, ...] = Field(min_length=1)
    interval: Duration = 60 * NANOS_PER_SECOND
    lateness: Duration = 2 * NANOS_PER_SECOND
    horizon: Duration = 300 * NANOS_PER_SECOND
    market: Market = Market()
    publish: Publish = Publish()
    fleet: tuple[Model, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _venue_is_the_market_s(cls, said: object) -> object:
        """Give instruments that name no venue that of the market."""
        if not isinstance(said, dict) or not isinstance(said.get("instruments"), (list, tuple)):
            return said
        try:
            venue = Market.model_validate(said.get("market", {})).venue
        except ValidationError:  # told by the field itself, and nothing else shall be
            venue = "simulated"
        named = [f"{venue}:{n}" if venue and isinstance(n, str) and ":" not in n else n for n in said["instruments"]]
        return {**said, "instruments": tuple(named)}

    @model_validator(mode="after")
    def _fits_together(self) -> Project:
        if self.horizon % self.interval or not 1 <= self.horizon // self.interval <= 240:  # noqa: PLR2004 - MEMORY
            raise ValueError("horizon must be 1 to 240 whole bars; change 'horizon' or 'interval'")
        for what, names in (("instruments", self.instruments), ("fleet", tuple(m.name for m in self.fleet))):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} lists a name twice; remove one")
        missing = {"price_change", "direction", "volatility"} - {t for m in self.fleet for t in m.targets}
        if missing:
            raise ValueError(f"no model of the fleet learns {', '.join(sorted(missing))}; add it to a model's targets")
        for venue, _, symbol in (name.partition(":") for name in self.instruments):
            if self.market.simulated and venue != "simulated":
                raise ValueError(f"{venue}:{symbol} would carry made-up prices; write {symbol}, or simulated:{symbol}")
            if self.market.source in LIVE and venue != self.market.source:
                raise ValueError(f"{venue}:{symbol} is not of {self.market.source}; write {symbol} without a venue")
        if (self.market.source == "recorded") != bool(self.market.path):
            raise ValueError('market.path belongs to market.source = "recorded", and only there')
        return self

    @property
    def horizon_s(self) -> int:
        """The horizon in whole seconds."""
        return self.horizon // NANOS_PER_SECOND


class Places(Frozen):
    """Where things are on this machine or cluster; every field has a ``TIDEMILL_*`` environment variable.

    Attributes
    ----------
    home : everything Tidemill writes is below this directory unless said otherwise
    config : the ``tidemill.toml``
    kafka_bootstrap_servers : empty means the dev broker on ``broker_port``
    kafka_topic_prefix : before every topic's name on the broker, so that several mills can share one
    kafka : further client settings (``security.protocol`` ...), passed through to librdkafka
    control_url : SQLAlchemy URL; empty means SQLite below home
    dagster_url : PostgreSQL of Dagster's runs, events and ticks; empty means SQLite below home
    lake_catalog : DuckLake catalog; empty means SQLite below home
    market : ``binance``, ``kraken``, ``box``, ...: instead of what ``tidemill.toml`` says; empty means as it says
    model_key : signs model versions, at least 32 characters; empty means a key made once below home
    """

    home: Path = Path(".tidemill")
    config: Path = Path("tidemill.toml")
    kafka_bootstrap_servers: str = ""
    kafka_topic_prefix: TopicPrefix = ""
    kafka: dict[str, str] = {}
    control_url: str = Field(default="", repr=False)
    dagster_url: PostgresqlUrl = Field(default="", repr=False)
    lake_catalog: str = ""
    market: str = ""
    model_key: str = Field(default="", repr=False)
    broker_port: int = 19092
    dagster_port: int = 3000
    serving_port: int = 8095
    exchange_port: int = 8096

    @property
    def bootstrap(self) -> str:
        """The brokers that clients connect to."""
        return self.kafka_bootstrap_servers or f"127.0.0.1:{self.broker_port}"

    @property
    def control(self) -> str:
        """The control database's SQLAlchemy URL."""
        return self.control_url or f"sqlite:///{self.home.absolute() / 'control.sqlite'}"

    @property
    def lake(self) -> Path:
        """Directory of the lake: its SQLite catalog and its data files."""
        return self.home.absolute() / "lake"

    @property
    def models(self) -> Path:
        """Directory of the model artifacts."""
        return self.home.absolute() / "models"

    @property
    def state(self) -> Path:
        """Directory of the services' own checkpoints."""
        return self.home.absolute() / "state"
