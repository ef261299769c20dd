"""A mill whose sensors tick: an instance in memory, a real control database, and cursors that are kept."""

import dagster as dg
import pytest

from orchestration.processes import group
from tests.mills import mill_at
from tests.orchestration.scenes import Scene
from warehouse.control import Control


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def mill(tmp_path):
    return mill_at(tmp_path)


@pytest.fixture
def control(mill):
    with Control.open(mill.places.control) as control:
        yield control


@pytest.fixture
def tick(instance):
    """Evaluate a sensor; it goes on from the cursor that it returned last."""
    cursors = {}

    def evaluate(sensor):
        context = dg.build_sensor_context(instance=instance, cursor=cursors.get(sensor.name))
        result = sensor(context)
        if isinstance(result, dg.SensorResult) and result.cursor is not None:
            cursors[sensor.name] = result.cursor
        return result

    evaluate.cursors = cursors
    return evaluate


@pytest.fixture
def scene(tmp_path):
    with_processes = Scene(tmp_path)
    yield with_processes
    families = [child for home in with_processes.root.glob("*/child") if (child := home.read_text())]
    with_processes.it.stop_all()
    assert with_processes.living() == []
    assert [who for family in families for who in group(family)] == []
