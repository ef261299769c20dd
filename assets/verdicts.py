"""What a check says: that all is well, what is wrong and how badly, or why it cannot tell.

A check that cannot be evaluated does not pass: it says ``not judged`` and why, as a warning, so that nobody takes
silence for health. It blocks nothing, for what has no rows yet has nothing to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

SAID = 5
"""Faults named in a headline; their number is always told."""

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def verdict(
    faults: Sequence[str], found: Mapping[str, Any], severity: dg.AssetCheckSeverity = ERROR
) -> dg.AssetCheckResult:
    """Return the result of a check that looked: it passes when there is no fault.

    Parameters
    ----------
    faults : one line each: what and where
    found : what was looked at and what was seen, for people and plots; kept for good, so kept small
    severity : of the faults
    """
    more = f" (and {len(faults) - SAID} more)" if len(faults) > SAID else ""
    return dg.AssetCheckResult(
        passed=not faults,
        severity=severity,
        description="; ".join(faults[:SAID]) + more if faults else None,
        metadata={**found, "faults": len(faults)},
    )


def unjudged(why: str) -> dg.AssetCheckResult:
    """Return the result of a check that could not look."""
    return dg.AssetCheckResult(passed=False, severity=WARN, description=f"not judged: {why}")
