"""Reading configuration, at entry points only: ``tidemill.toml`` says what, ``TIDEMILL_*`` variables say where.

Of a live market the home itself says the rest, once and for all: which exchange it is and when its stream began.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.config import Places, Project
from domain.doors import AccessToken, Address, Networks, Origin
from domain.errors import BadState, UsageError
from domain.fields import Frozen, PostgresqlUrl, TopicPrefix
from domain.market import Market, Source
from orchestration.secret_files import DIRECTORY


class _Environment(BaseSettings):
    """The fields of ``Places``, read from the environment."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", extra="ignore")

    home: Path = Places().home
    config: Path = Places().config
    kafka_bootstrap_servers: str = ""
    kafka_topic_prefix: TopicPrefix = ""
    kafka: dict[str, str] = {}
    control_url: str = ""
    dagster_url: PostgresqlUrl = ""
    lake_catalog: str = ""
    market: str = ""
    model_key: str = ""
    broker_port: int = Places().broker_port
    dagster_port: int = Places().dagster_port
    serving_port: int = Places().serving_port
    exchange_port: int = Places().exchange_port
    dagster_host: Address = Places().dagster_host
    dagster_token: AccessToken = ""
    dagster_public: Origin = ""
    dagster_proxy: Networks = ""


class Opening(Frozen):
    """Which market a home holds: written when it begins; later only instruments join.

    Attributes
    ----------
    source : never ``auto``
    opens : where history ends and the stream begins, UTC
    configured : what ``tidemill.toml`` asked for
    instruments : in partition order, those of the beginning
    seed : of a made-up market
    joins : of each instrument that was added later, when its own stream began, UTC
    """

    source: Source
    opens: datetime
    configured: str
    instruments: tuple[str, ...] = ()
    seed: int | None = None
    joins: Mapping[str, datetime] = {}

    @classmethod
    def path(cls, places: Places) -> Path:
        """Return the file of a home's opening."""
        return places.home / "market.json"

    @classmethod
    def of(cls, places: Places) -> Opening | None:
        """Return a home's opening, None before there is one.

        Raises
        ------
        BadState
            When its file is damaged.
        """
        path = cls.path(places)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise BadState(
                f"{path}: is damaged; it names the market of this home and when its stream began: restore it, or begin "
                "anew with another TIDEMILL_HOME"
            ) from error


def read_places() -> Places:
    """Return where things are.

    Raises
    ------
    UsageError
        When a variable does not have the form of its field.
    """
    directory = os.environ.get(DIRECTORY)
    try:
        # An environment variable wins over a file: what a person says now over what a supervisor was given.
        found = _Environment(_secrets_dir=directory if directory and Path(directory).is_dir() else None)  # type: ignore[call-arg]
    except ValidationError as error:
        raise UsageError(f"environment: {first_fault(error, 'TIDEMILL_')}") from error
    except Exception as error:  # pydantic-settings raises its own kind for JSON it cannot read
        raise UsageError(f"environment: {error}; see the README for the variables") from error
    return Places(**found.model_dump())


def read_project(places: Places) -> Project:
    """Return what to predict.

    Raises
    ------
    UsageError
        When the file is missing, is not TOML, holds an unknown key or an unfit value, or asks for another market than
        the home's.
    BadState
        When the home's own record of its market is damaged.
    """
    path = places.config
    try:
        said = tomllib.loads(path.read_text("utf-8"))
        opening = Opening.of(places)
        project = Project(**{**said, **_market(places, said, opening)})
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; copy the one of the repository or set TIDEMILL_CONFIG") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {first_fault(error)}") from error
    if opening is not None:
        _demand_held(places, project, opening)
    return project


def configured_market(said: dict[str, Any]) -> str:
    """Return the source that a ``tidemill.toml`` asks for."""
    market = said.get("market")
    return str(market.get("source", Market().source)) if isinstance(market, dict) else Market().source


def _demand_held(places: Places, project: Project, opening: Opening) -> None:
    """Return when a project is of the market that a home holds: nothing else tells its partitions and prices apart."""
    held = (*opening.instruments, *opening.joins)
    if opening.instruments and project.instruments[: len(held)] != held:
        raise UsageError(
            f"{places.config}: instruments are {', '.join(project.instruments)}, but {places.home} holds "
            f"{', '.join(held)}: append to these, or set TIDEMILL_HOME to another directory for others"
        )
    if project.market.simulated and opening.seed not in {None, project.market.seed}:
        raise UsageError(
            f"{places.config}: market.seed is {project.market.seed}, but {places.home} holds the market of seed "
            f"{opening.seed}; set TIDEMILL_HOME to another directory for another market"
        )


def _market(places: Places, said: dict[str, Any], opening: Opening | None) -> dict[str, Any]:
    """Return the table ``market`` with what environment and home have to say about it; nothing where it is no table."""
    table = said.get("market", {})
    if not isinstance(table, dict):
        return {}
    asked = places.market or configured_market(said)
    if opening is None:
        return {"market": {**table, "source": asked}}
    if asked not in {"auto", opening.source, *([] if places.market else [opening.configured])}:
        raise UsageError(
            f"{places.home} holds the market {opening.source}, not {asked}; set TIDEMILL_HOME to another directory for "
            "another market"
        )
    return {"market": {**table, "source": opening.source, "opens": opening.opens, "joins": opening.joins}}


def first_fault(error: ValidationError, prefix: str = "") -> str:
    """Return the first thing that is wrong, in one line."""
    one = error.errors()[0]
    where = ".".join(str(part) for part in one["loc"])
    if one["type"] == "extra_forbidden":
        return f"unknown key '{where}'; remove it or correct its spelling"
    name = f"{prefix}{where.upper()}" if prefix else where
    return f"{name or 'project'}: {one['msg'].removeprefix('Value error, ')}"
