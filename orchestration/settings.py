"""Reading configuration, at entry points only: ``tidemill.toml`` says what, ``TIDEMILL_*`` variables say where.

Of a live market the home itself says the rest, once and for all: which exchange it is and when its stream began.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from domain.config import Places, Project
from domain.errors import BadState, UsageError
from domain.fields import Frozen, shown
from domain.market import Market, Source
from domain.spelling import meant
from orchestration.mistakes import PREFIX, first_fault
from orchestration.secret_files import DIRECTORY, kept_secrets

_OWN = (
    "GENERATION",
    "KAFKA_JARS",
    "KILLS",
    "PULSE",
    "SCREENSHOTS",
    "SECRETS",
    "SEED",
    "SIMULATED_DAYS",
    "SUPERVISED",
)
INTERNAL = frozenset(f"{PREFIX}{name}" for name in _OWN)
"""Variables that a supervisor gives its processes, and those of tests, of benchmarks and of what ``deploy`` holds."""

LONGEST_PATH = 400
"""Bytes of a home's path at most: SQLite opens no path of more than 512, and Dagster's databases lie deep."""

LARGEST = 1_000_000
"""Bytes of a ``tidemill.toml`` at most; that of a thousand instruments has 20,000."""


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


def read_places(environment: Mapping[str, str] | None = None) -> Places:
    """Return where things are.

    Parameters
    ----------
    environment : None means this process's

    Raises
    ------
    UsageError
        When a variable is not known, does not have the form of its field, or names a home that cannot be one.
    """
    told = os.environ if environment is None else environment
    # A variable wins over a file: what a person says now over what a supervisor was given.
    said: dict[str, Any] = kept_secrets(told.get(DIRECTORY, ""))
    for variable in sorted(told):
        if not variable.upper().startswith(PREFIX) or variable in INTERNAL or variable.startswith(f"{PREFIX}TEST_"):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in Places.model_fields or variable != variable.upper():
            known = [f"{PREFIX}{field.upper()}" for field in Places.model_fields]
            raise UsageError(f"environment: {variable} is not a setting{meant(variable, known)}; unset or rename it")
        if not _is_utf8(told[variable]):
            raise UsageError(f"environment: {variable} is not UTF-8; write it in characters of UTF-8")
        said[name] = told[variable]
    if "kafka" in said:
        said["kafka"] = _object(said["kafka"])
    try:
        places = Places(**said)
    except ValidationError as error:
        raise UsageError(f"environment: {first_fault(error, PREFIX)}") from error
    demand_directory(places.home, f"{PREFIX}HOME")
    return places


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that the system could not decode
        return False
    return True


def _object(text: str) -> object:
    """Return what a JSON says; ``Places`` demands an object."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"environment: {PREFIX}KAFKA: is not JSON ({error}); write an object, such as "
            '{"security.protocol": "ssl"}'
        ) from error


def demand_directory(path: Path, what: str) -> Path:
    """Return the nearest directory that exists: the path itself, or one above it; nothing is made.

    Parameters
    ----------
    what : the variable or option that named it

    Raises
    ------
    UsageError
        When something else than a directory is in the way.
    """
    at = path.absolute()
    try:
        if at.resolve() == Path("/"):
            raise UsageError(f"{what}: {path} is the root of the file system; name a directory of its own below it")
        if len(os.fsencode(at)) > LONGEST_PATH:
            raise UsageError(
                f"{what}: {str(path)[:60]}... is longer than {LONGEST_PATH} characters; name a shorter one"
            )
        while not at.is_dir():
            if os.path.lexists(at):
                kind = "a link to nothing" if at.is_symlink() else "not a directory"
                raise UsageError(f"{what}: {at} is {kind}; name a directory, or one that can be made")
            at = at.parent
    except (OSError, ValueError, RuntimeError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{what}: {str(path)[:200]} cannot be a directory ({words}); name another one") from error
    return at


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a ``tidemill.toml`` says.

    Raises
    ------
    UsageError
        When it is not a readable file, is too large, or is not TOML in UTF-8.
    """
    named = f"{path}" if path.is_absolute() else f"{path} (in {Path.cwd()})"
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file; set TIDEMILL_CONFIG to a tidemill.toml")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UsageError(f"{path} has more than {LARGEST:,} bytes; set TIDEMILL_CONFIG to a tidemill.toml")
        if text.startswith(b"\xef\xbb\xbf"):
            raise UsageError(f"{path} begins with a byte order mark; save it as UTF-8 without one")
        return tomllib.loads(text.decode("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{named} does not exist; copy the one of the repository or set TIDEMILL_CONFIG") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; set TIDEMILL_CONFIG to a file that can be read") from error
    except RecursionError as error:
        raise UsageError(f"{path}: is nested too deep; write it as the one of the repository") from error
    except ValueError as error:  # TOML's own, and Python's of numbers with thousands of digits
        raise UsageError(f"{path}: is not TOML ({error}); correct it there") from error


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
    said = read_toml(path)
    _demand_units(path, said)
    opening = Opening.of(places)
    try:
        project = Project(**{**said, **_market(places, said, opening)})
    except ValidationError as error:
        raise UsageError(f"{path}: {first_fault(error)}") from error
    if opening is not None:
        _demand_held(places, project, opening)
    return project


def _demand_units(path: Path, said: Mapping[str, Any]) -> None:
    """Raise where a duration is a number: code means nanoseconds by one, and a person hardly does."""
    for name in ("interval", "lateness", "horizon"):
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise UsageError(f'{path}: {name}: {shown(value)} has no unit; write it in quotes with one, such as "60s"')


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
            f"{', '.join(held)}; append to these, or set TIDEMILL_HOME to another directory for others"
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
    asked = places.market or table.get("source", Market().source)
    if opening is None:
        return {"market": {**table, "source": asked}}
    if asked not in {"auto", opening.source, *([] if places.market else [opening.configured])}:
        raise UsageError(
            f"{places.home} holds the market {opening.source}, not {asked}; set TIDEMILL_HOME to another directory for "
            "another market"
        )
    return {"market": {**table, "source": opening.source, "opens": opening.opens, "joins": opening.joins}}
