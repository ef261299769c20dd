"""Dagster's own home, below Tidemill's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from domain.addresses import with_driver
from domain.config import Places

if TYPE_CHECKING:
    from dagster import DagsterInstance  # seconds of imports

TEMPLATE = Path(__file__).with_name("dagster.yaml")

POSTGRESQL = """
# Runs, events and ticks are in PostgreSQL. Its URL may hold a password: Dagster reads it from the environment.
storage: { postgres: { postgres_url: { env: TIDEMILL_DAGSTER_URL } } }
"""


def prepare_instance(home: Path, url: str = "") -> Path:
    """Write ``dagster.yaml`` into the instance's directory and return that directory, for ``DAGSTER_HOME``.

    Parameters
    ----------
    home : Tidemill's; logs and, without a PostgreSQL, runs, events and ticks are kept in its folder ``dagster``
    url : of the PostgreSQL that keeps runs, events and ticks; empty for SQLite

    Raises
    ------
    UsageError, Unavailable
        As ``warehouse.engines.probe``: nothing is written then.
    """
    wanted = TEMPLATE.read_text("utf-8")
    if url:
        from warehouse.engines import probe

        probe(url, "TIDEMILL_DAGSTER_URL")
        wanted += POSTGRESQL
    directory = home.absolute() / "dagster"
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "dagster.yaml"
    anew = not settings.exists() or settings.read_text("utf-8") != wanted
    if anew:
        staged = settings.with_suffix(".new")
        staged.write_text(wanted, "utf-8")
        staged.replace(settings)
    if anew if url else not (directory / "schedules" / "schedules.db").exists():
        _make_storage(directory, url)
    return directory


def lend_url(places: Places) -> None:
    """Put the URL of Dagster's storage where it reads it: the environment of its own processes, and of no other."""
    if places.dagster_url:
        os.environ["TIDEMILL_DAGSTER_URL"] = places.dagster_url


def turn_on(directory: Path, url: str = "") -> list[str]:
    """Let sensors and schedules that were stopped run as their code declares; return their names.

    Parameters
    ----------
    directory, url : of the instance, see ``prepare_instance``
    """
    from dagster._core.scheduler.instigation import InstigatorStatus

    with opened(directory, url) as instance:
        stopped = [state for state in instance.all_instigator_state() if state.status is InstigatorStatus.STOPPED]
        for state in stopped:
            instance.update_instigator_state(state.with_status(InstigatorStatus.DECLARED_IN_CODE))
    return sorted(state.name for state in stopped)


def _make_storage(directory: Path, url: str) -> None:
    """Make Dagster's tables before its daemon and its webserver start: both would at once, and spoil them for good."""
    with opened(directory, url):
        pass


def opened(directory: Path, url: str = "") -> DagsterInstance:
    """Return Dagster's instance, to be used as a context manager.

    Parameters
    ----------
    directory, url : of the instance, see ``prepare_instance``
    """
    from dagster import DagsterInstance

    if url:
        os.environ["TIDEMILL_DAGSTER_URL"] = with_driver(url)  # as its processes are told it
    return DagsterInstance.from_config(str(directory))
