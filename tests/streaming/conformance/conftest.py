"""The brokers that one suite of client behaviour holds to the same laws: the dev broker and Apache Kafka."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from deploy.kafka.node import KafkaNode
from tests.brokers import BrokerProcess, broker_process

KAFKA = "TIDEMILL_TEST_KAFKA"
"""Set to the bootstrap address of some other Kafka, the suite holds that one to the same laws too."""

KINDS = ("dev", "apache", *(("external",) if KAFKA in os.environ else ()))


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def broker(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess | KafkaNode | None]:
    """Return the broker as something that can be killed and started again; nobody may do that to an external one."""
    if kind == "dev":
        with broker_process(tmp_path_factory.mktemp("broker")) as process:
            yield process
    else:
        yield request.getfixturevalue("apache") if kind == "apache" else None


@pytest.fixture(scope="session")
def bootstrap(broker: BrokerProcess | KafkaNode | None) -> str:
    return broker.address if broker else os.environ[KAFKA]


@pytest.fixture
def mortal(broker: BrokerProcess | KafkaNode | None) -> BrokerProcess | KafkaNode:
    """Return the broker for a test that ends it, and leave it running."""
    if broker is None:
        pytest.skip("an external broker is not ours to end")
    return broker
