"""What is not everywhere: recorded files of real markets, which lie beside the project, Apache Kafka and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.kafka.jars import Missing
from deploy.kafka.node import KafkaNode
from tests import postgresql

SHELF = Path(__file__).parents[1] / ".." / "shared" / "data"


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
        node.stop()


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
