"""What is not everywhere: recorded files of real markets, which lie beside the project, Apache Kafka and PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from deploy.kafka.jars import Missing
from deploy.kafka.node import KafkaNode
from tests import postgresql
from tests.leftovers import end_all

ROOT = Path(__file__).parents[1]
SHELF = ROOT / ".." / "shared" / "data"
SERVICES = {Path("tests/chaos"), Path("tests/walk")}
IN_MEMORY = {"test_fork_loop.py", "test_power_loss.py"}
"""Of these folders, what runs no service."""

FOLDERS = {
    "assets": "dagster",
    "attacks": "process",
    "chaos": "process",
    "conformance": "kafka",
    "deploy": "process",
    "laws": "slow",
    "orchestration": "dagster",
    "simulation": "slow",
    "walk": "process",
}
FIXTURES = {
    "apache": "kafka",
    "bootstrap": "kafka",
    "box": "process",
    "broker": "kafka",
    "exchange": "process",
    "fresh_lake": "slow",
    "postgres": "postgres",
    "processes": "process",
    "screen": "browser",
    "server": "process",
    "shared_lake": "slow",
}
"""What marks a test by where it is and by what it asks for; where neither does, a module or a test marks itself."""


class Together(LoadScopeScheduling):  # type: ignore[misc] - xdist tells no types
    """Shares tests out to workers by file, but gives all that run real services to one, which runs them one by one."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return "services" if _is_of_services(file) else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together:
    """Share out as ``Together`` says."""
    return Together(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a worker step back once it has none of the real services: the other's tests wait for processes."""
    if "PYTEST_XDIST_WORKER" in os.environ and not _is_of_services(_file(item)) and os.nice(0) == 0:
        os.nice(5)


def _is_of_services(file: Path) -> bool:
    return file.parent in SERVICES and file.name not in IN_MEMORY


def _file(item: pytest.Item) -> Path:
    return item.path.relative_to(ROOT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests, and begin with those of real services: they take longest, and on a busy machine longer still."""
    for item in items:
        for mark in (
            *(FOLDERS[part] for part in _file(item).parts if part in FOLDERS),
            *(FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES),
        ):
            item.add_marker(mark)
        if _is_of_services(_file(item)) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: not _is_of_services(_file(item)))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """End what tests left running, also those that timed out, and fail the session for it: the path names the test."""
    yield  # the first fixture of the session is the last to be finished
    left = end_all(tmp_path_factory.getbasetemp(), os.environ["TIDEMILL_HOME"])
    assert not left, "tests left processes behind: " + "; ".join(left)


@pytest.fixture(scope="session")
def shelf() -> Callable[[str], Path]:
    """Return a real file by name, or skip the test that needs it."""

    def find(name: str) -> Path:
        path = SHELF / name
        if not path.exists():
            pytest.skip(f"market data file {name} is not here")
        return path

    return find


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """Return the one Apache Kafka of all tests, started when the first one asks; without Java or its jars they skip."""
    try:
        node = KafkaNode(tmp_path_factory.mktemp("apache"))
    except Missing as missing:
        pytest.skip(f"no Apache Kafka: {missing}")
    node.start()
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Postgresql]:
    """Return the one PostgreSQL server of all tests, which gives each its own database; without binaries they skip."""
    try:
        server = postgresql.Postgresql()
    except postgresql.NoServerError as missing:
        pytest.skip(f"no PostgreSQL: {missing}")
    server.start()
    try:
        yield server
    finally:
        server.stop()
