"""How fast a line learns: the compiled champion against River, through our adapter and driven by hand.

Run ``python benchmarks/learner.py [--json] [--rows N] [--runs N]``. Every figure is the median of interleaved runs over
the same made-up market, on one core; a row is one question and one answer.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from domain.bars import BAR_COLUMNS
from domain.config import Model
from domain.events import NANOS_PER_MINUTE
from domain.features import FEATURES, TARGETS, examples, vectors
from domain.fleet import Line
from domain.learners import create
from domain.tables import BarTable
from domain.tape import Tape, merge
from domain.zoo import build

TEXT = "preprocessing.StandardScaler() | linear_model.LinearRegression()"
RLS = Model(name="rls", kind="rls", targets=TARGETS)
RIVER = Model(name="river", kind="river", targets=("volatility",), estimator=TEXT)
K = TARGETS.index("volatility")


def market(n: int) -> BarTable:
    """Return n bars of a seeded random walk."""
    rng = np.random.default_rng(7)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    values = np.zeros((n, len(BAR_COLUMNS)))
    values[:, :4] = close[:, None] * np.array([1.0, 1.001, 0.999, 1.0])
    values[:, 4] = rng.lognormal(1, 1, n)
    return BarTable(NANOS_PER_MINUTE * (1 + np.arange(n)), values)


def by_hand(tape: Tape) -> None:
    """Drive the same River pipeline as one would without this project, one dict a row."""
    estimator = build(TEXT)
    for asks, x, y in zip(tape.asks.tolist(), tape.x.tolist(), tape.y[:, K].tolist(), strict=True):
        row = dict(zip(FEATURES, x, strict=True))
        if asks:
            estimator.predict_one(row)
        elif not math.isnan(y):
            estimator.learn_one(row, y)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(rows: int, runs: int) -> dict[str, float]:
    """Return rows (bars) a second of each way, median of the runs."""
    bars, few = market(rows), market(max(1_000, rows // 10))
    asked = vectors(bars, 0, NANOS_PER_MINUTE)
    tape = merge(asked, examples(bars, asked, 0, 5 * NANOS_PER_MINUTE, NANOS_PER_MINUTE))
    asked = vectors(few, 0, NANOS_PER_MINUTE)
    short = merge(asked, examples(few, asked, 0, 5 * NANOS_PER_MINUTE, NANOS_PER_MINUTE))
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "vectors": (len(bars), lambda: vectors(bars, 0, NANOS_PER_MINUTE)),
        "line, rls, 3 targets": (len(tape) // 2, lambda: Line("a:B", (RLS,)).advance(tape, 1)),
        "rls alone, 3 targets": (len(tape) // 2, lambda: create(RLS).advance(tape)),
        "river, our adapter": (len(short) // 2, lambda: create(RIVER).advance(short)),
        "river, by hand": (len(short) // 2, lambda: by_hand(short)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, (_, work) in ways.items():
            taken = timed(work)
            if run:  # the first compiles and warms up
                seconds[name].append(taken)
    return {name: n / statistics.median(seconds[name]) for name, (n, _) in ways.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=100_000, help="bars of the market (River runs over a tenth)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each way, at least 3")
    chosen = parser.parse_args()
    rates = measure(max(2_000, chosen.rows), max(3, chosen.runs))
    hand = rates["river, by hand"]
    ratios = {f"{name} / river, by hand": rate / hand for name, rate in rates.items() if name != "river, by hand"}
    if chosen.json:
        machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, "per_second": rates, "ratios": ratios}))
        return
    for name, rate in rates.items():
        print(
            f"{name:<22} {rate:>12,.0f} {'bars' if name == 'vectors' else 'rows'}/s {rate / hand:>8.2f} x river by hand"
        )


if __name__ == "__main__":
    main()
