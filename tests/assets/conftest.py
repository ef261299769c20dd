"""History filled once for all tests that read it: a run over two days takes some seconds."""

import dagster as dg
import pytest

from orchestration.definitions import definitions
from tests.mills import days, mill_at


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A mill whose two days of history were materialized, and the instance that recorded it."""
    mill = mill_at(tmp_path_factory.mktemp("mill"))
    job = definitions(mill.places, mill.project).resolve_job_def("backfill")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, tags=days()).success
        yield mill, instance


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
