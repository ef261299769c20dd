"""How good the served predictions were: what was answered, beside what then happened."""

from __future__ import annotations

from typing import Any

from domain.features import TARGETS
from warehouse.lake import Lake
from warehouse.tables import day_of

_CLIP = 1e-6

# Squared error for the two real-valued targets; log loss for the direction, which is null where the price stood still.
_SERVED = """
WITH served AS (
    SELECT
        (p.price_change - e.price_change) ** 2 AS price_change,
        -(e.direction * ln(p_up) + (1 - e.direction) * ln(1 - p_up)) AS direction,
        (p.volatility - e.volatility) ** 2 AS volatility,
        (p.ts_event - p.model_watermark) / 1e9 AS age
    FROM (
        SELECT *, greatest($clip, least(1 - $clip, direction)) AS p_up FROM predictions
        WHERE instrument = $instrument AND ts_event > $since AND day >= DATE '1970-01-01' + $day
    ) p
    JOIN (
        SELECT * FROM examples
        WHERE instrument = $instrument AND ts_event > $since AND day >= DATE '1970-01-01' + $day
    ) e USING (instrument, ts_event, horizon_s)
)
SELECT
    count(price_change) AS n_price_change, avg(price_change) AS price_change,
    count(direction) AS n_direction, avg(direction) AS direction,
    count(volatility) AS n_volatility, avg(volatility) AS volatility,
    avg(age) AS mean_age, max(age) AS max_age
FROM served
"""


def served_loss(lake: Lake, instrument: str, since: int) -> dict[str, Any]:
    """Return the loss of the predictions made after ``since`` whose targets are known by now.

    Parameters
    ----------
    since : int, ns of the vector's time

    Returns
    -------
    dict
        For each target ``{"count": int, "loss": float | None}``: mean squared error for price_change and volatility,
        mean log loss with the probability clipped to [1e-6, 1 - 1e-6] for direction, over rows that have one; and
        ``model_age_s``: ``{"mean": float | None, "max": float | None}``, seconds of event time between the newest
        label the model knew and the question. None where there is nothing to average.
    """
    parameters = {"instrument": instrument, "since": since, "day": max(-700_000, day_of(since + 1)), "clip": _CLIP}
    row = lake.query(_SERVED, parameters).to_pylist()[0]
    loss: dict[str, Any] = {name: {"count": row[f"n_{name}"], "loss": row[name]} for name in TARGETS}
    return loss | {"model_age_s": {"mean": row["mean_age"], "max": row["max_age"]}}
