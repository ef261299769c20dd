"""What must hold of what is served: every vector is answered, and few records are refused."""

import dagster as dg

from assets.resources import Mill
from assets.verdicts import ERROR, WARN, unjudged, verdict

LEAST, LEAST_EVER = 0.999, 0.99
"""Share of vectors answered below which it is a warning, and an error: a predictor that is away for a redeployment
answers what waits for it when it is back, so that nothing is lost but by a topic that was deleted."""

MOST, MOST_EVER = 0.001, 0.01
"""Share of records refused above which it is a warning, and an error."""

PREDICTIONS = dg.AssetKey("predictions")


def serving_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks of ``predictions``."""
    return [answered(), dead_letters()]


def answered() -> dg.AssetChecksDefinition:
    """Return check ``predictions/coverage``."""

    @dg.asset_check(
        asset=PREDICTIONS,
        name="coverage",
        description="Of the vectors that landed since the first answer, and at least a horizon ago, the share that was "
        f"answered: below {LEAST:.1%} is a warning, below {LEAST_EVER:.0%} an error.",
    )
    def check(mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from warehouse.features import span
        from warehouse.performance import coverage

        faults, worst, found = list[str](), 1.0, dict[str, float]()
        with mill.lake() as lake:
            for name in mill.project.instruments:
                served, asked = span(lake, "predictions", name), span(lake, "features", name)
                if served is None or asked is None:
                    return unjudged(f"nothing was served for {name} yet")
                vectors, done = coverage(lake, name, served[0] - 1, asked[1] - mill.project.horizon)
                if not vectors:
                    return unjudged(f"no vector of {name} has waited a horizon for its answer yet")
                share = done / vectors
                worst = min(worst, share)
                found |= {f"vectors {name}": vectors, f"answered {name}": done, f"coverage {name}": share}
                if share < LEAST:
                    faults.append(f"{vectors - done} of {vectors} vectors of {name} have no answer ({share:.2%} have)")
        return verdict(faults, found, ERROR if worst < LEAST_EVER else WARN)

    return check


def dead_letters() -> dg.AssetChecksDefinition:
    """Return check ``predictions/dead_letters``."""

    @dg.asset_check(
        asset=PREDICTIONS,
        name="dead_letters",
        description="Of the records that the services handled since this was last looked at, the share that they "
        f"refused: above {MOST:.1%} is a warning, above {MOST_EVER:.0%} an error. `tidemill dead-letters list` shows "
        "them.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from warehouse.heartbeats import Heartbeats

        with mill.control() as control:
            refused = {f"{service} {reason}": n for (service, reason), n in control.dead_letters().items()}
            beats = Heartbeats(control).beats()
        handled = {f"{beat.service} {beat.instance}": beat.progress for beat in beats if beat.service != "broker"}
        before = _last(context.instance)
        fresh = _grown(refused, before.get("refused", {}))
        n, seen = sum(fresh.values()), sum(_grown(handled, before.get("handled", {})).values())
        counts = dg.MetadataValue.json({"refused": refused, "handled": handled})
        if not seen and not n:
            said = unjudged("no service has handled a record since this was last looked at")
            return said._replace(metadata={_COUNTS: counts})
        share = n / max(1, seen)
        refusers = [f"{what} {one}" for what, one in fresh.items() if one]
        faults = [f"{n} of {seen} records were refused: {', '.join(refusers)}"] if share > MOST else []
        found = {"refused": n, "handled": seen, "share": share, _COUNTS: counts}
        return verdict(faults, found, ERROR if share > MOST_EVER else WARN)

    return check


_COUNTS = "counts"


def _last(instance: dg.DagsterInstance) -> dict[str, dict[str, int]]:
    """Return the counts that the last evaluation left, nothing before the first one."""
    key = dg.AssetCheckKey(PREDICTIONS, "dead_letters")
    # Newest first; the run that asks is among them, without an evaluation, and so are runs that died.
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=20):
        done = record.evaluation
        counts = done.metadata.get(_COUNTS) if isinstance(done, dg.AssetCheckEvaluation) else None
        if isinstance(counts, dg.JsonMetadataValue) and isinstance(counts.data, dict):
            return counts.data
    return {}


def _grown(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return by how much each count has grown: a count that fell has begun anew."""
    return {name: n - before.get(name, 0) if n >= before.get(name, 0) else n for name, n in now.items()}
