"""History filled once for all tests that read it: a run over two days takes some seconds."""

import dagster as dg
import numpy as np
import pytest

from assets.backfill import write_bars, write_examples, write_features
from assets.partitions import history_of
from assets.training import train_initial
from domain.events import NANOS_PER_DAY, Prediction
from domain.fleet import Line
from domain.tape import merge
from orchestration.definitions import definitions
from tests.mills import days, mill_at
from warehouse.features import training_rows
from warehouse.keys import model_key
from warehouse.landing import Batch, land
from warehouse.registry import Registry
from warehouse.tables import records_to_rows


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


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A mill that was trained on its first day and served the second one, and its lines as they stand then."""
    mill = mill_at(tmp_path_factory.mktemp("served"))
    history, lines = history_of(mill.project), {}
    seam = history.start + NANOS_PER_DAY
    with mill.lake() as lake, mill.control() as control:
        registry = Registry(control, mill.places.models, model_key(mill.places))
        for partition, name in enumerate(mill.project.instruments):
            window = (name, history.start, history.until, "run")
            write_bars(lake, mill.source(), mill.project, *window)
            write_features(lake, mill.project, *window)
            write_examples(lake, mill.project, *window)
            trained = train_initial(lake, control, registry, mill.project, name, history.start, seam)
            lines[name] = registry.open(trained.version).line
            rows = _serve(lake, lines[name], seam, history.until, mill.project.horizon_s)
            land(lake, [Batch("predictions", "predictions", partition, rows, rows.num_rows)])
    return mill, lines


def _serve(lake, line: Line, seam, until, horizon_s):
    """Answer everything after the seam, a quarter of an hour a version; return the answers as rows."""
    records, rest = [], training_rows(lake, line.instrument, seam - horizon_s * 10**9, until)
    tape = merge(
        type(rest.vectors)(*(column[rest.vectors.ts > seam] for column in vars(rest.vectors).values())),
        type(rest.examples)(*(column[rest.examples.available > seam] for column in vars(rest.examples).values())),
    )
    number, at = 1, 0
    while at < len(tape):
        piece = type(tape)(*(column[at : at + 30] for column in vars(tape).values()))
        said = line.advance(piece, int(piece.ts.max()))
        for ts, y in zip(piece.ts[piece.asks].tolist(), said.tolist(), strict=True):
            known = ts - 60 * 10**9 * (1 + number % 20)
            records.append(
                Prediction(
                    f"{line.instrument}/{ts}/{horizon_s}", line.instrument, ts, horizon_s, *y, number, 1, known, 0
                )
            )
        at, number = at + 30, number + 1
    assert np.all(np.diff([record.ts_event for record in records]) > 0)
    return records_to_rows("predictions", records, range(len(records)))
