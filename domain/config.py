"""What to predict and with which models (``Project``), and where things are (``Places``), as frozen values.

Reading ``tidemill.toml`` and the environment is the entry points' business (``orchestration.settings``).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from domain.addresses import Brokers, ControlUrl, Port, PostgresqlUrl
from domain.doors import AccessToken, Address, Network, Networks, Origin, parse_networks
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.fields import Duration, Frozen, InstrumentId, ModelKey, Number, TopicPrefix, Whole, duration_text
from domain.lines import BASELINES, FROZEN
from domain.market import CCXT, Market, OwnMarket

BARS_AHEAD = 240
"""Bars of a horizon at most: a target needs as many to be kept."""

LONGEST_LATENESS, BARS_LATE = 3_600 * NANOS_PER_SECOND, 3_600
"""Time, and bars, that a bar is kept open after its end, at most."""

SHORTEST_INTERVAL = 1_000_000

INSTRUMENTS = 1_000
"""Instruments at most: each is a partition of six topics, and a live stream takes no more on one connection."""

MODELS = 50

_KAFKA = '{"security.protocol": "ssl"}'


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

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)
    kind: Literal["rls", "river"]
    targets: tuple[Literal["price_change", "direction", "volatility"], ...] = Field(min_length=1)
    forgetting: Number = Field(default=1 - 3e-5, gt=0.9, le=1.0)
    clip: Number = Field(default=8.0, gt=0, le=1e6)
    estimator: str = Field(default="", max_length=10_000)

    @model_validator(mode="after")
    def _fits_together(self) -> Model:
        if (self.kind == "river") != bool(self.estimator):
            raise ValueError(
                f"model {self.name}: 'estimator' belongs to kind = \"river\", and only there; add it or remove it"
            )
        if self.name in {*BASELINES, FROZEN}:
            raise ValueError(f"model {self.name}: the name is that of a baseline; choose another")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"model {self.name}: targets lists a name twice; remove one")
        return self


class Publish(Frozen):
    """When the trainer publishes a version: after so many examples or so long, whichever comes first.

    ``every = 0`` leaves the clock out, so that the versions of a replay are a function of its data.
    """

    examples: Whole = Field(default=5_000, ge=1, le=1_000_000_000)
    every_s: Number = Field(default=1.0, ge=0, le=86_400)


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

    instruments: tuple[InstrumentId, ...] = Field(min_length=1, max_length=INSTRUMENTS)
    interval: Duration = 60 * NANOS_PER_SECOND
    lateness: Duration = 2 * NANOS_PER_SECOND
    horizon: Duration = 300 * NANOS_PER_SECOND
    market: Market = Market()
    publish: Publish = Publish()
    fleet: tuple[Model, ...] = Field(min_length=1, max_length=MODELS)

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
        self._demand_spans()
        for what, names in (("instruments", self.instruments), ("fleet", tuple(m.name for m in self.fleet))):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} lists a name twice, {twice!r}; remove one")
        missing = {"price_change", "direction", "volatility"} - {t for m in self.fleet for t in m.targets}
        if missing:
            raise ValueError(f"no model of the fleet learns {', '.join(sorted(missing))}; add it to a model's targets")
        for venue, _, symbol in (name.partition(":") for name in self.instruments):
            if self.market.simulated and venue != "simulated":
                raise ValueError(f"{venue}:{symbol} would carry made-up prices; write {symbol}, or simulated:{symbol}")
            if self.market.live and venue != self.market.venue:
                raise ValueError(f"{venue}:{symbol} is not of {self.market.venue}; write {symbol} without a venue")
        if (self.market.source == "recorded") != bool(self.market.path):
            raise ValueError('market.path belongs to market.source = "recorded", and only there; add it or remove it')
        if self.market.record and self.market.source.startswith(CCXT):
            raise ValueError("market.record keeps what an exchange sends, which ccxt does not show; remove it")
        return self

    def _demand_spans(self) -> None:
        """Raise ``ValueError`` unless the lengths of time fit together."""
        interval, horizon, lateness = (duration_text(n) for n in (self.interval, self.horizon, self.lateness))
        if not SHORTEST_INTERVAL <= self.interval <= NANOS_PER_DAY:
            raise ValueError(f"interval is {interval}, not from 1ms to 1d; write such as 1m")
        if self.horizon % self.interval or not 1 <= self.horizon // self.interval <= BARS_AHEAD:
            raise ValueError(
                f"horizon is {horizon} and interval {interval}, but a horizon must be 1 to {BARS_AHEAD} whole bars; "
                "change 'horizon' or 'interval'"
            )
        if self.lateness > LONGEST_LATENESS:
            raise ValueError(f"lateness is {lateness}, more than 1h; write such as 2s")
        if self.lateness > BARS_LATE * self.interval:
            raise ValueError(f"lateness is {lateness}, more than {BARS_LATE:,} bars of {interval}; write a shorter one")
        if self.market.source != "recorded" and self.horizon >= self.market.history_days * NANOS_PER_DAY:
            raise ValueError(
                f"horizon is {horizon}, not less than the {self.market.history_days} days of history that the first "
                "model learns from; change 'horizon' or 'market.history_days'"
            )

    @property
    def horizon_s(self) -> int:
        """The horizon in whole seconds."""
        return self.horizon // NANOS_PER_SECOND


SECRETS = ("kafka", "control_url", "dagster_url", "lake_catalog", "model_key", "dagster_token")
"""Fields of ``Places`` that may hold a password or a key."""


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
    market : ``binance``, ``ccxt:okx``, ``box``, ...: instead of what ``tidemill.toml`` says; empty means as it says
    model_key : signs model versions, at least 32 characters; empty means a key made once below home
    dagster_host : address that Dagster's pages are served on; beyond loopback only with a token or behind a proxy
    dagster_token : what a visitor of these pages must show, at least 32 characters; empty asks for none
    dagster_public : origin under which a proxy publishes them, such as ``https://mill.example``
    dagster_proxy : addresses or networks of that proxy, separated by commas
    """

    home: Path = Path(".tidemill")
    config: Path = Path("tidemill.toml")
    kafka_bootstrap_servers: Brokers = ""
    kafka_topic_prefix: TopicPrefix = ""
    kafka: dict[str, str] = Field(default_factory=dict, repr=False)
    control_url: ControlUrl = Field(default="", repr=False)
    dagster_url: PostgresqlUrl = Field(default="", repr=False)
    lake_catalog: str = ""
    market: OwnMarket = ""
    model_key: ModelKey = Field(default="", repr=False)
    broker_port: Port = 19092
    dagster_port: Port = 3000
    serving_port: Port = 8095
    exchange_port: Port = 8096
    dagster_host: Address = "127.0.0.1"
    dagster_token: AccessToken = Field(default="", repr=False)
    dagster_public: Origin = ""
    dagster_proxy: Networks = ""

    @field_validator("home", "config", mode="before")
    @classmethod
    def _is_a_path(cls, path: object) -> object:
        text = str(path)
        if not text or "\0" in text:
            raise ValueError(f"{text!r} is not a path; write a directory's or a file's, or unset it")
        if text.startswith("~"):
            raise ValueError(f"{text!r} begins with ~, which is for the shell to replace; write the whole path")
        return path

    @field_validator("kafka", mode="before")
    @classmethod
    def _is_plain(cls, settings: object) -> object:
        if not isinstance(settings, dict):
            raise ValueError(f"is not an object; write such as {_KAFKA}")  # noqa: TRY004 - pydantic takes no other
        for name, value in settings.items():
            if not isinstance(value, str | int | float):
                what = f"the value of {name!r} is not a text or a number"  # which may be a password
                raise ValueError(f"{what}; write such as {_KAFKA}")  # noqa: TRY004 - likewise
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}

    @field_validator("lake_catalog")
    @classmethod
    def _is_below_home(cls, catalog: str) -> str:
        if catalog:
            raise ValueError("only the SQLite catalog below TIDEMILL_HOME is supported; unset it")
        return catalog

    @model_validator(mode="after")
    def _share_no_port(self) -> Places:
        names = ("broker_port", "dagster_port", "serving_port", "exchange_port")
        for i, name in enumerate(names):
            for other in names[:i]:
                if getattr(self, name) == getattr(self, other):
                    raise ValueError(
                        f"TIDEMILL_{other.upper()} and TIDEMILL_{name.upper()} are both {getattr(self, name)}; "
                        "give each service a port of its own"
                    )
        return self

    @model_validator(mode="after")
    def _is_closed(self) -> Places:
        """Refuse to publish Dagster's pages to all who reach the machine: they run jobs."""
        beyond = not ipaddress.ip_address(self.dagster_host).is_loopback
        if beyond and not (self.dagster_token or (self.dagster_public and self.dagster_proxy)):
            raise ValueError(
                f"TIDEMILL_DAGSTER_HOST is {self.dagster_host}: any program that reaches it could run jobs; set "
                "TIDEMILL_DAGSTER_TOKEN, or TIDEMILL_DAGSTER_PUBLIC and TIDEMILL_DAGSTER_PROXY where a proxy of yours "
                "asks who people are"
            )
        return self

    @property
    def dagster_at(self) -> str:
        """The address at which this machine reaches Dagster's pages: loopback when they are served on every network."""
        address = ipaddress.ip_address(self.dagster_host)
        everywhere = {4: "127.0.0.1", 6: "::1"}[address.version]
        return everywhere if address.is_unspecified else str(address)

    @property
    def dagster_pages(self) -> str:
        """The address of Dagster's pages, as a browser on this machine takes it."""
        host = f"[{self.dagster_at}]" if ":" in self.dagster_at else self.dagster_at
        return f"http://{host}:{self.dagster_port}"

    @property
    def dagster_proxies(self) -> tuple[Network, ...]:
        """The addresses of ``dagster_proxy``."""
        return parse_networks(self.dagster_proxy)

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
