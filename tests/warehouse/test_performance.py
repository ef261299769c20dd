import math

import numpy as np
import pytest

from domain.events import NANOS_PER_MINUTE, NANOS_PER_SECOND, Prediction
from warehouse import features, landing, tables
from warehouse.performance import answered, coverage, served_loss


@pytest.fixture
def lake(empty_lake):
    return empty_lake


def test_the_loss_is_that_of_a_plain_loop_over_answered_predictions(lake, history):
    past = history(300)
    rows = tables.examples_to_rows(past.instrument, past.examples, 300, "live")
    features.replace_window(lake, "examples", past.instrument, 0, 2**62, rows, "run")
    rng = np.random.default_rng(3)
    said = rng.normal(size=(310, 3))
    said[:, 1] = rng.random(310)
    said[:3, 1] = [0.0, 1.0, 0.5]  # certain, and clipped for it
    ts = past.start + (1 + np.arange(310)) * NANOS_PER_MINUTE  # the last ten have no answer yet
    ages = rng.integers(1, 100, 310)
    predictions = [
        Prediction(f"p{k}", past.instrument, int(t), 300, *y, 1, 1, int(t) - int(age) * NANOS_PER_SECOND, 0)
        for k, (t, y, age) in enumerate(zip(ts, said.tolist(), ages, strict=True))
    ]
    rows = tables.records_to_rows("predictions", predictions, range(310))
    landing.land(lake, [landing.Batch("predictions", "predictions", 0, rows, 310)])

    for skip in (0, 100):
        since = past.start + skip * NANOS_PER_MINUTE
        found = served_loss(lake, past.instrument, since)
        y, p = past.examples.targets[skip:], said[skip:300]
        moved = ~np.isnan(y[:, 1])
        up = np.clip(p[moved, 1], 1e-6, 1 - 1e-6)
        log_loss = -np.where(y[moved, 1] == 1, np.log(up), np.log(1 - up)).mean()
        assert found["price_change"] == {"count": 300 - skip, "loss": pytest.approx(((y - p)[:, 0] ** 2).mean())}
        assert found["volatility"] == {"count": 300 - skip, "loss": pytest.approx(((y - p)[:, 2] ** 2).mean())}
        assert found["direction"] == {"count": int(moved.sum()), "loss": pytest.approx(log_loss)}
        assert math.isclose(found["model_age_s"]["mean"], ages[skip:300].mean())
        assert found["model_age_s"]["max"] == ages[skip:300].max()


def test_where_nothing_was_answered_there_is_no_loss_rather_than_zero(lake):
    found = served_loss(lake, "simulated:BTC-USD", 0)
    assert found["direction"] == {"count": 0, "loss": None}
    assert found["model_age_s"] == {"mean": None, "max": None}


def test_a_vector_counts_as_answered_when_there_is_a_prediction_for_it(lake, history):
    past = history(300)
    name = past.instrument
    features.replace_window(lake, "features", name, 0, 2**62, tables.vectors_to_rows(name, past.vectors, "live"), "run")
    ts = past.vectors.ts
    some = [Prediction(f"p{t}", name, int(t), 300, 0.0, 0.5, 0.0, 1, 1, 0, 0) for t in [*ts[10:40], *ts[50:60]]]
    rows = tables.records_to_rows("predictions", some, range(40))
    landing.land(lake, [landing.Batch("predictions", "predictions", 0, rows, 40)])
    assert coverage(lake, name, int(ts[9])) == (len(ts) - 10, 40)
    assert coverage(lake, name, int(ts[29]), int(ts[54])) == (25, 15)
    assert coverage(lake, "simulated:ETH-USD", 0) == (0, 0)


def test_answers_come_with_outcomes_in_order_of_their_vectors_and_within_the_window(lake, history):
    past = history(100)
    name = past.instrument
    rows = tables.examples_to_rows(name, past.examples, 300, "live")
    features.replace_window(lake, "examples", name, 0, 2**62, rows, "run")
    ts = past.examples.ts
    said = [Prediction(f"p{t}", name, int(t), 300, 1.0, 0.5, 2.0, 7, 1, int(t) - 60, 0) for t in ts]
    rows = tables.records_to_rows("predictions", said, range(len(said)))
    landing.land(lake, [landing.Batch("predictions", "predictions", 0, rows, len(said))])
    found = answered(lake, name, int(ts[4]), int(ts[20]))
    assert found.ts.tolist() == ts[5:21].tolist()
    assert np.array_equal(found.actual, past.examples.targets[5:21], equal_nan=True)
    assert found.predicted[0].tolist() == [1.0, 0.5, 2.0]
    assert set(found.version) == {7}
    assert (found.ts - found.watermark == 60).all()
