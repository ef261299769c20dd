"""Everything that can be tried before anything is made: the home, the databases, Kafka's settings and the fleet."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from domain.config import Places, Project
from domain.errors import UsageError
from orchestration.settings import demand_directory

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What a disk says that is not a person's mistake."""


LEARNING = frozenset({"trainer", "challenger"})


def rehearse(places: Places, project: Project) -> None:
    """Try everything, and leave nothing behind.

    Raises
    ------
    UsageError
        The first thing that is wrong with a setting.
    BadState, Unavailable
        The first that is wrong with what a setting names.
    """
    _try(places, project, attempts(places, project))


def rehearse_start(name: str, places: Places, project: Project) -> None:
    """Try what the start of one service needs, as ``rehearse`` does."""
    tried = ["control database", "Kafka's settings"]
    tried += ["fleet"] * (name in LEARNING) + ["home"] * (not places.home.exists())
    _try(places, project, tried)


def rehearse_replay(places: Places, project: Project) -> None:
    """Try what a replay takes from the environment and the project, as ``rehearse`` does."""
    _try(places, project, ["Kafka's settings", "fleet"])


def _try(places: Places, project: Project, names: Iterable[str]) -> None:
    known = attempts(places, project)
    for name in names:
        known[name]()


def attempts(places: Places, project: Project) -> Mapping[str, Callable[[], str]]:
    """Return what is tried, by name; each says in words what it found, or raises as ``rehearse``."""
    return {
        "home": lambda: try_home(places.home, "TIDEMILL_HOME"),
        "control database": lambda: _control(places),
        "Dagster's storage": lambda: _dagster(places),
        "model key": lambda: _key(places),
        "Kafka's settings": lambda: _kafka(places),
        "fleet": lambda: try_fleet(places.config, project),
    }


def try_home(home: Path, what: str) -> str:
    """Say where a home is, once something can be written there; it is removed at once.

    Parameters
    ----------
    what : the variable or option that named it

    Raises
    ------
    UsageError
        When it cannot be made or written.
    """
    at = demand_directory(home, what)
    try:
        with tempfile.TemporaryDirectory(prefix=".tidemill-", dir=at):
            return f"{home.absolute()} can be written"
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UsageError(f"{what}: {at} cannot be written ({error.strerror}); name a directory of your own") from error


def try_fleet(config: Path, project: Project) -> str:
    """Say how many models there are, having built each once.

    Raises
    ------
    UsageError
        When an estimator cannot be built, or cannot learn its target.
    """
    from domain.learners import create

    for model in project.fleet:
        try:
            create(model)
        except UsageError as error:
            raise UsageError(f"{config}: fleet: {error}") from error
    return f"{len(project.fleet)} models can be built"


def _control(places: Places) -> str:
    from warehouse.engines import demand_sqlite, try_control

    try_control(places.control_url)
    if not places.control_url:
        demand_sqlite(places.home / "control.sqlite")
    return "can be used"


def _key(places: Places) -> str:
    from warehouse.keys import try_key

    return try_key(places)


def _dagster(places: Places) -> str:
    if not places.dagster_url:
        return "SQLite below home"
    from warehouse.engines import probe

    return f"{probe(places.dagster_url, 'TIDEMILL_DAGSTER_URL')} answers"


def _kafka(places: Places) -> str:
    if not places.kafka:
        return "none but ours"
    from streaming.properties import try_properties

    try_properties(places)
    return f"{', '.join(places.kafka)} can be set"
