"""What was served, beside what then happened: answers with their outcomes, and how many vectors were answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from domain import evaluation
from domain.events import NANOS_PER_SECOND
from domain.features import TARGETS
from domain.tables import Floats, Ints
from warehouse.lake import Lake
from warehouse.tables import day_of, times

_EVER = 2**62

# The direction is null where the price stood still.
_ANSWERED = """
SELECT
    ts_event, p.model_version, p.model_watermark,
    p.price_change AS said_price_change, p.direction AS said_direction, p.volatility AS said_volatility,
    e.price_change, e.direction, e.volatility
FROM (
    SELECT * FROM predictions
    WHERE instrument = $instrument AND ts_event > $since AND ts_event <= $until AND day >= DATE '1970-01-01' + $day
) p
JOIN (
    SELECT * FROM examples
    WHERE instrument = $instrument AND ts_event > $since AND ts_event <= $until AND day >= DATE '1970-01-01' + $day
) e USING (instrument, ts_event, horizon_s)
ORDER BY ts_event
"""

_COVERAGE = """
SELECT count(*) AS vectors, count(p.ts_event) AS answered
FROM (
    SELECT ts_event FROM features
    WHERE instrument = $instrument AND ts_event > $since AND ts_event <= $until AND day >= DATE '1970-01-01' + $day
)
LEFT JOIN (SELECT ts_event FROM predictions WHERE instrument = $instrument) p USING (ts_event)
"""


@dataclass(frozen=True)
class Answered:
    """Predictions of one instrument whose outcome is known, ``n`` rows in the order of their vectors.

    Attributes
    ----------
    ts : int64[n], ns
        The vectors' times.
    predicted, actual : float64[n, 3]
        In the order of ``TARGETS``; an actual direction is NaN where the price did not move.
    version, watermark : int64[n]
        Which version answered, and availability time of the newest label that it knew, ns.
    """

    ts: Ints
    predicted: Floats
    actual: Floats
    version: Ints
    watermark: Ints

    def __len__(self) -> int:
        return len(self.ts)


def answered(lake: Lake, instrument: str, since: int, until: int = _EVER) -> Answered:
    """Return the predictions for vectors with ``since < ts_event <= until`` (ns) whose outcome is known by now."""
    rows = lake.query(_ANSWERED, _window(instrument, since, until))
    return Answered(
        ts=times(rows, "ts_event"),
        predicted=_columns(rows, [f"said_{target}" for target in TARGETS]),
        actual=_columns(rows, TARGETS),
        version=times(rows, "model_version"),
        watermark=times(rows, "model_watermark"),
    )


def coverage(lake: Lake, instrument: str, since: int, until: int = _EVER) -> tuple[int, int]:
    """Return how many vectors with ``since < ts_event <= until`` (ns) there are, and how many were answered."""
    row = lake.query(_COVERAGE, _window(instrument, since, until)).to_pylist()[0]
    return row["vectors"], row["answered"]


def served_loss(lake: Lake, instrument: str, since: int) -> dict[str, Any]:
    """Return the loss of the predictions made after ``since`` whose targets are known by now.

    Parameters
    ----------
    since : int, ns of the vector's time

    Returns
    -------
    dict
        For each target ``{"count": int, "loss": float | None}``, see ``evaluation.loss_of``, over rows that have one;
        and ``model_age_s``: ``{"mean": float | None, "max": float | None}``, seconds of event time between the newest
        label the model knew and the question. None where there is nothing to average.
    """
    rows = answered(lake, instrument, since)
    losses = evaluation.losses(rows.predicted, rows.actual)
    age = (rows.ts - rows.watermark) / NANOS_PER_SECOND
    return {target: _mean_loss(losses[:, k]) for k, target in enumerate(TARGETS)} | {
        "model_age_s": {"mean": float(age.mean()), "max": float(age.max())} if len(age) else {"mean": None, "max": None}
    }


def _mean_loss(losses: Floats) -> dict[str, Any]:
    known = losses[np.isfinite(losses)]
    return {"count": len(known), "loss": float(known.mean()) if len(known) else None}


def _window(instrument: str, since: int, until: int) -> dict[str, object]:
    return {"instrument": instrument, "since": since, "until": until, "day": max(-700_000, day_of(since + 1))}


def _columns(rows: pa.Table, names: list[str] | tuple[str, ...]) -> Floats:
    return np.stack([np.array(rows[name].to_numpy(), np.float64) for name in names], axis=1)
