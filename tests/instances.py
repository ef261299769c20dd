"""A Dagster instance on disk to test with, in SQLite or in PostgreSQL, as ``tidemill up`` prepares it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from domain.config import Places
from orchestration.instance import prepare_instance

STORAGES = ("sqlite", "postgresql")


@contextmanager
def instance_at(home: Path, url: str = "") -> Iterator[dg.DagsterInstance]:
    """Open the instance of a home; Dagster finds its URL where services find it, in the environment."""
    places = Places(home=home, dagster_url=url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_DAGSTER_URL", places.dagster_url)
        directory = prepare_instance(places.home, places.dagster_url)
        with dg.DagsterInstance.from_config(str(directory)) as instance:
            yield instance
