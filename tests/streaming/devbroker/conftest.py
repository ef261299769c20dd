"""What the tests of the dev broker share: a running one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import running_broker


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(tmp_path_factory.mktemp("kafka")) as address:
        yield address
