"""Jobs: the things a person or a sensor asks for by name."""

from __future__ import annotations

import dagster as dg

from assets.completeness import COMPLETE, TABLES
from assets.models import INITIAL
from assets.performance import PERFORMANCE
from assets.services import key_of
from domain.services import FLOW, STREAMS

BOOTSTRAP, BACKFILL, TRAIN, REDEPLOY = "bootstrap", "backfill", "train", "redeploy"
REFILL, EVALUATE = "refill", "evaluate"

_BARS, _EXAMPLES = dg.AssetKey("bars"), dg.AssetKey("examples")
# Of the checks only those that stop what is made from bad rows: the others are for when there is a stream to look at.
HISTORY = dg.AssetSelection.assets("bars", "features", "examples").without_checks() | dg.AssetSelection.checks(
    dg.AssetCheckKey(_BARS, "gapless"), dg.AssetCheckKey(_EXAMPLES, "no_look_ahead")
)
WHOLE = dg.AssetSelection.checks(*(dg.AssetCheckKey(dg.AssetKey(table), COMPLETE) for table in TABLES))
MODELS = dg.AssetSelection.assets(INITIAL).without_checks() | dg.AssetSelection.checks(
    dg.AssetCheckKey(INITIAL, "finite")
)
SERVICES = dg.AssetSelection.assets(*(key_of(name) for name in FLOW)).without_checks()
ALWAYS = dg.AssetSelection.assets(*(key_of(name) for name in STREAMS)).without_checks()

_LIMIT = "dagster/max_runtime"
# Seconds after which Dagster's monitoring ends a run: one that hangs is noticed by nothing else.


def jobs() -> list[dg.JobDefinition | dg.UnresolvedAssetJobDefinition]:
    """Return all jobs; each runs in one process, for the start of a second one takes longer than most steps."""
    return [
        dg.define_asset_job(
            BOOTSTRAP,
            HISTORY | MODELS | ALWAYS,
            description="Everything from nothing: fill history, train the first models, deploy every service.",
            tags={_LIMIT: "3600"},
        ),
        dg.define_asset_job(
            BACKFILL, HISTORY, description="Fill bars, vectors and examples of some days.", tags={_LIMIT: "3600"}
        ),
        dg.define_asset_job(
            REFILL,
            HISTORY | WHOLE,
            description="Fill days that the lake lacks, and see whether it is whole then.",
            tags={_LIMIT: "3600"},
        ),
        dg.define_asset_job(
            TRAIN,
            MODELS,
            description="Train the first version of every line that has none.",
            tags={_LIMIT: "3600"},
        ),
        dg.define_asset_job(
            REDEPLOY,
            SERVICES,
            description="Put services in place afresh, with today's configuration and code.",
            tags={_LIMIT: "600"},  # all of them, one after the other, on a busy machine
        ),
        dg.define_asset_job(
            EVALUATE,
            dg.AssetSelection.assets(PERFORMANCE) | dg.AssetSelection.all_asset_checks(),
            description="What the models and the data are worth now: served answers beside outcomes, and every check. "
            "Materialize on its page leaves the checks out; its launchpad (jobs/evaluate/playground) runs them too.",
            tags={_LIMIT: "1800"},
        ),
    ]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of one run over the days ``first`` to ``last``, both included."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
