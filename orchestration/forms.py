"""The forms of the jobs on lines, as the launchpad shows them."""

from __future__ import annotations

from enum import Enum

import dagster as dg
from pydantic import Field

Reason = Field(default="", description="Why: kept with the decision, shown wherever it is.")
Instrument = Field(default="", description="venue:SYMBOL; empty: the only one, or every one where that makes sense.")


class Retrain(dg.Config):
    """What to train anew."""

    instrument: str = Instrument
    days: int = Field(default=0, ge=0, description="Days of history up to now to train on; 0: all of it.")
    reason: str = Reason
    wait_s: float = Field(default=900.0, ge=0, description="Seconds to wait until it has caught up; 0: do not wait.")


class What(Enum):
    """What a promotion is for."""

    CHALLENGER = "challenger"
    NEWEST = "newest"


class Promote(dg.Config):
    """What is to serve."""

    instrument: str = Instrument
    what: What = Field(
        default=What.CHALLENGER,
        description="CHALLENGER: champion and challenger change parts. NEWEST: end a rollback, the champion's newest "
        "version serves again.",
    )
    only_if_better: bool = Field(
        default=False, description="Refuse when the challenger's recent loss on volatility is not the lower one."
    )
    reason: str = Reason


class Rollback(dg.Config):
    """Which version is to serve until job promote says otherwise."""

    instrument: str = Instrument
    version: int = Field(ge=1, description="Its number, as in model_versions and tidemill status; any kept one.")
    reason: str = Reason


class Rebuild(dg.Config):
    """Which version to make once more."""

    instrument: str = Instrument
    version: int = Field(ge=1, description="Its number, as in model_versions and tidemill status.")


class Unlearn(dg.Config):
    """Which window of bad data to leave out."""

    instrument: str = Instrument
    since: str = Field(description="Where the window begins, UTC, such as 2025-01-08 12:30.")
    until: str = Field(
        description="Where it ends, UTC. Features look back 240 bars: let it end so much later, or what follows is "
        "computed from bad bars still."
    )
    reason: str = Reason
    wait_s: float = Field(default=900.0, ge=0, description="Seconds to wait until it has caught up; 0: do not wait.")
