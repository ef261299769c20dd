"""What must hold of bars, vectors and examples: no gap, no lag, no skew between batch and stream, no look ahead."""

import zlib
from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np

from assets.completeness import TABLES, complete
from assets.history import Table, ends_of
from assets.partitions import history_of, text_of, window_of
from assets.resources import Mill
from assets.verdicts import ERROR, WARN, unjudged, verdict
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.health import market_clock
from domain.tables import Ints

LATE_S, LOST_S = 60.0, 600.0
"""Wall seconds that a table may be behind the market before it is a warning, and an error.

The lander commits every 2 s and may merge files for some; ten minutes are more than any redeployment takes.
"""

FULL_SPEED = 500_000.0
"""Event seconds a second of a market at speed 0: a year takes about a minute."""

PLACES, STRETCH, LIVE_STRETCH = 4, 16, 1_000
"""Places of a table that are computed again, and rows at each; of streamed rows more at the newest end."""


def history_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks of ``bars``, ``features`` and ``examples``."""
    of_each = [check(table) for check in (fresh, complete) for table in TABLES]
    return [gapless(), *of_each, no_skew(), no_look_ahead()]


def gapless() -> dg.AssetChecksDefinition:
    """Return check ``bars/gapless``."""

    @dg.asset_check(
        asset="bars",
        name="gapless",
        blocking=True,
        description="The bars of the run's days (alone: of the two newest) follow one another on the grid, each once; "
        "else no vector is computed from them. A hole longer than the stream ever fills (a market closed for more than "
        "10,080 intervals) is the market's own: a warning, and vectors leave it out.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from domain.bars import MAX_FILL
        from domain.gaps import gaps_of
        from warehouse.features import read_times, span

        project, history = mill.project, history_of(mill.project)
        faults: list[str] = []
        pauses: list[str] = []
        found: dict[str, int] = {}
        with mill.lake() as lake:
            ends = ends_of(mill, lake, "bars")
            for name in project.instruments:
                known = span(lake, "bars", name)
                if known is None:
                    return unjudged(f"{name} has no bar yet; run job backfill")
                start, end = window_of(context.run.tags) or _newest_days(ends[name])
                start, end = max(start, history.start), min(end, ends[name])
                ts = read_times(lake, "bars", name, start, end)
                # A market that was not there yet when the window began has no gap before its first bar.
                after = start if known[0] <= start else min(end, known[0] - project.interval)
                gaps = gaps_of(ts, after, end, project.interval)
                found |= {f"rows {name}": gaps.rows, f"expected {name}": gaps.expected, f"absent {name}": gaps.absent}
                for at, n in gaps.holes:
                    (pauses if n > MAX_FILL else faults).append(f"{name} lacks {n} bars after {text_of(at)}")
                if gaps.doubled or gaps.strayed:
                    faults.append(f"{name} has {gaps.doubled} doubled bars and {gaps.strayed} beside the grid")
        return verdict(faults + pauses, found, ERROR if faults else WARN)

    return check


def fresh(table: Table) -> dg.AssetChecksDefinition:
    """Return a table's check ``fresh``."""

    @dg.asset_check(
        asset=table,
        name="fresh",
        description=f"The newest row stands near the market's own clock, by the speed of the market: more than "
        f"{LATE_S:g} s of the wall's clock behind is a warning, more than {LOST_S:g} s an error.",
    )
    def check(mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from warehouse.features import span
        from warehouse.heartbeats import Heartbeats

        with mill.control() as control:
            clock = market_clock(Heartbeats(control).beats())
        if not clock:
            return unjudged("the market's clock has not begun: no featurizer has told of a bar yet")
        speed = mill.project.market.speed or FULL_SPEED
        faults, worst = [], 0.0
        found: dict[str, Any] = {"clock": text_of(clock)}
        with mill.lake() as lake:
            for name in mill.project.instruments:
                known = span(lake, table, name)
                if known is None:
                    return unjudged(f"{name} has no row in {table} yet")
                behind = max(0, clock - known[1]) / NANOS_PER_SECOND / speed
                worst = max(worst, behind)
                found |= {f"newest {name}": text_of(known[1]), f"behind_s {name}": round(behind, 1)}
                if behind > LATE_S:
                    faults.append(f"{table} of {name} is {behind:.0f} s behind the market; look at the lander")
        return verdict(faults, found, ERROR if worst > LOST_S else WARN)

    return check


def no_skew() -> dg.AssetChecksDefinition:
    """Return check ``features/no_skew``."""

    @dg.asset_check(
        asset="features",
        name="no_skew",
        description="Streamed vectors (the newest, and stretches drawn at random) are computed again from the lake's "
        "bars as a backfill would, and must be equal bit for bit: training and serving see the same numbers.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from assets.recomputed import NOTHING, compare_vectors
        from warehouse.features import read_times, span

        faults: list[str] = []
        found: dict[str, int] = {}
        with mill.lake() as lake:
            for name in mill.project.instruments:
                # Topics land one by one: a vector may rest before its bar does.
                known = span(lake, "bars", name) or (0, 0)
                live, total = read_times(lake, "features", name, 0, known[1], source="live"), NOTHING
                for at in (live[-LIVE_STRETCH:], *_drawn(live, context.run.run_id)) if len(live) else ():
                    total += compare_vectors(lake, mill.project, name, at)
                found[f"compared {name}"] = total.rows
                faults += [f"vector of {name} at {text_of(int(t))} differs" for t in total.differing]
        if not sum(found.values()):
            return unjudged("no streamed vector rests in the lake now: none has landed, or all were backfilled since")
        return verdict(faults, found)

    return check


def no_look_ahead() -> dg.AssetChecksDefinition:
    """Return check ``examples/no_look_ahead``."""

    @dg.asset_check(
        asset="examples",
        name="no_look_ahead",
        blocking=True,
        description="No example of the run's days (alone: of any day) is available before its horizon has passed; "
        "stretches drawn at random, computed again from the bars up to their own time (answers: up to the end of their "
        "horizon), are equal bit for bit. Else no first model is trained on them.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from assets.recomputed import NOTHING, compare_examples
        from warehouse.features import count_early, read_times, span

        start, end = window_of(context.run.tags) or (0, _EVER)
        faults: list[str] = []
        found: dict[str, int] = {}
        with mill.lake() as lake:
            for name in mill.project.instruments:
                known = span(lake, "bars", name) or (0, 0)
                times, total = read_times(lake, "examples", name, start, min(end, known[1])), NOTHING
                if early := count_early(lake, name, start, end):
                    faults.append(f"{early} examples of {name} were available before their horizon had passed")
                for at in _drawn(times, context.run.run_id):
                    total += compare_examples(lake, mill.project, name, at)
                found |= {f"rows {name}": len(times), f"compared {name}": total.rows}
                faults += [f"example of {name}, known at {text_of(int(t))}, differs" for t in total.differing]
        if not any(n for what, n in found.items() if what.startswith("rows")):
            return unjudged("there is no example yet; run job backfill")
        return verdict(faults, found)

    return check


_EVER = 2**62


def _newest_days(end: int) -> tuple[int, int]:
    return ((end - 1) // NANOS_PER_DAY - 1) * NANOS_PER_DAY, end


def _drawn(times: Ints, seed: str) -> Iterator[Ints]:
    """Yield short stretches of these times, at places that a seed decides: others in each run."""
    if len(times):
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        for first in np.sort(rng.integers(0, max(1, len(times) - STRETCH + 1), PLACES)):
            yield times[first : first + STRETCH]
