"""The topics between the services: names and settings."""

from __future__ import annotations

TRADES = "trades"
BARS = "bars"
FEATURES = "features"
FEATURES_WITH_TARGET = "features_with_target"
PREDICTIONS = "predictions"
MODEL_VERSIONS = "model_versions"
DEAD_LETTERS = "dead_letters"

BY_INSTRUMENT = (TRADES, BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS, MODEL_VERSIONS)
"""Topics with one partition an instrument: one partition, one model line, one order."""

ALL = (*BY_INSTRUMENT, DEAD_LETTERS)

SETTINGS = {
    # Seven days of market data: longer than any outage this system is meant to resume from without a backfill.
    "retention.ms": str(7 * 86_400_000),
    "cleanup.policy": "delete",
    "compression.type": "producer",
    # Retention counts from arrival: a replay of an old year must not expire as it is written.
    "message.timestamp.type": "LogAppendTime",
}
