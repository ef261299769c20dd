"""A home of its own for each test, and rows to put into it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from domain.bars import BAR_COLUMNS
from domain.config import Places
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.features import FEATURES
from domain.tables import BarTable, ExampleTable, VectorTable
from warehouse.control import Control
from warehouse.lake import Lake
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.tables import SCHEMAS

HOUSE = Path(__file__).parents[2]


def pytest_generate_tests(metafunc):
    """Try each law of a module with ``DATABASES`` on all of them; its child processes know only SQLite."""
    asks = getattr(metafunc.module, "DATABASES", ())
    if asks and "places" in metafunc.fixturenames and "processes" not in metafunc.fixturenames:
        marks = {"postgresql": pytest.mark.postgres}
        asks = [pytest.param(name, marks=marks.get(name, ())) for name in asks]
        metafunc.parametrize("places", asks, indirect=True)


@pytest.fixture
def places(tmp_path, request):
    home = tmp_path / "home"
    if getattr(request, "param", "sqlite") == "sqlite":
        return Places(home=home)
    return Places(home=home, control_url=request.getfixturevalue("postgres").database())


@pytest.fixture(scope="session")
def fresh_lake(tmp_path_factory):
    """A lake just made, to be copied: making one takes a second."""
    places = Places(home=tmp_path_factory.mktemp("fresh") / "home")
    Lake.open(places).close()
    return places.lake


@pytest.fixture
def lake(places, fresh_lake):
    shutil.copytree(fresh_lake, places.lake)
    with Lake.open(places) as lake:
        yield lake


@pytest.fixture(scope="session")
def shared_places(tmp_path_factory):
    return Places(home=tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture(scope="session")
def shared_lake(shared_places):
    with Lake.open(shared_places) as lake:
        yield lake


@pytest.fixture
def empty_lake(shared_lake):
    """A lake without rows, but with other tests' snapshots behind it: opening one of its own costs half a second."""
    yield shared_lake
    for table in (*SCHEMAS, "consumer_offsets"):
        shared_lake.write(lambda c, table=table: c.execute(f"DELETE FROM {table}"))  # noqa: S608


@pytest.fixture
def control(places):
    with Control.open(places.control) as control:
        yield control


@pytest.fixture
def registry(control, places):
    """A registry that only lists and publishes: bytes need no key."""
    return Registry(control, places.models)


@pytest.fixture
def lease(control):
    """A lease of the line that the tests publish on."""
    return Leases(control).acquire("simulated:BTC-USD", "trainer", 60)


@pytest.fixture
def processes(places):
    """Run a scenario of ``processes.py`` on this home; return what its children said and how they ended."""

    def run(scenario: str, seed: int = 1) -> list[dict]:
        script = Path(__file__).with_name("processes.py")
        command = [sys.executable, str(script), scenario, str(places.home), str(seed)]
        environment = os.environ | {"PYTHONPATH": str(HOUSE)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        children = json.loads(done.stdout)
        assert all(child["status"] in {0, -9} for child in children), done.stderr
        return children

    return run


class History:
    """A made-up instrument with a bar a minute."""

    instrument = "simulated:BTC-USD"
    start = 20_000 * NANOS_PER_DAY
    horizon = 5 * NANOS_PER_MINUTE

    def __init__(self, minutes: int, seed: int = 0, first: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.ts = self.start + (first + 1 + np.arange(minutes)) * NANOS_PER_MINUTE
        self.end = int(self.ts[-1])
        self.bars = BarTable(self.ts, rng.normal(size=(minutes, len(BAR_COLUMNS))))
        self.vectors = VectorTable(self.ts, rng.normal(size=(minutes, len(FEATURES))))
        targets = rng.normal(size=(minutes, 3))
        targets[:, 1] = np.where(rng.random(minutes) < 0.1, np.nan, rng.random(minutes) < 0.5)
        self.examples = ExampleTable(self.ts, self.ts + self.horizon, self.vectors.values, targets)


@pytest.fixture
def history():
    return History
