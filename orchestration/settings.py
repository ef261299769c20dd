"""Reading configuration, at entry points only: ``tidemill.toml`` says what, ``TIDEMILL_*`` variables say where."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.config import Places, PostgresqlUrl, Project, TopicPrefix
from domain.errors import UsageError


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
    model_key: str = ""
    broker_port: int = Places().broker_port
    dagster_port: int = Places().dagster_port
    serving_port: int = Places().serving_port


def read_places() -> Places:
    """Return where things are.

    Raises
    ------
    UsageError
        When a variable does not have the form of its field.
    """
    try:
        found = _Environment()
    except ValidationError as error:
        raise UsageError(f"environment: {first_fault(error, 'TIDEMILL_')}") from error
    except Exception as error:  # pydantic-settings raises its own kind for JSON it cannot read
        raise UsageError(f"environment: {error}; see the README for the variables") from error
    return Places(**found.model_dump())


def read_project(path: Path) -> Project:
    """Return what to predict.

    Raises
    ------
    UsageError
        When the file is missing, is not TOML, or holds an unknown key or an unfit value.
    """
    try:
        return Project(**tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; copy the one of the repository or set TIDEMILL_CONFIG") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {first_fault(error)}") from error


def first_fault(error: ValidationError, prefix: str = "") -> str:
    """Return the first thing that is wrong, in one line."""
    one = error.errors()[0]
    where = ".".join(str(part) for part in one["loc"])
    if one["type"] == "extra_forbidden":
        return f"unknown key '{where}'; remove it or correct its spelling"
    name = f"{prefix}{where.upper()}" if prefix else where
    return f"{name or 'project'}: {one['msg'].removeprefix('Value error, ')}"
