"""Made-up markets, seeded, and what the tests of domain and laws do with them."""

from __future__ import annotations

import math

import numpy as np

from domain.bars import BAR_COLUMNS
from domain.config import Model
from domain.events import NANOS_PER_DAY, NANOS_PER_SECOND
from domain.features import examples, vectors
from domain.tables import BarTable, ExampleTable, TradeTable, VectorTable
from domain.tape import Tape, merge

SECOND = NANOS_PER_SECOND
MINUTE = 60 * SECOND
START = 19_723 * NANOS_PER_DAY  # Monday, 2024-01-01
TARGETS = ("price_change", "direction", "volatility")
KEY = b"a key that signs made-up versions"

RLS = Model(name="rls", kind="rls", targets=TARGETS)
LINEAR = Model(
    name="river_linear",
    kind="river",
    targets=("price_change", "volatility"),
    estimator="preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1, clip_gradient=1.0)",
)
LOGISTIC = Model(
    name="river_logistic",
    kind="river",
    targets=("direction",),
    estimator="preprocessing.StandardScaler() | linear_model.LogisticRegression()",
)


def table(rows) -> TradeTable:
    """Trades from rows of time, id, price, size and side."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (np.int64, np.int64, np.float64, np.float64, np.int8)
    return TradeTable(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))


def cut(rows, a, b=None):
    """Rows ``a`` to ``b`` of a table, or those of a mask."""
    which = slice(a, b) if b is not None else a
    return type(rows)(*(column[which] for column in vars(rows).values()))


def joined(tables):
    """One table of many."""
    tables = list(tables)
    return type(tables[0])(*(np.concatenate(c) for c in zip(*(vars(t).values() for t in tables), strict=True)))


def same(a, b) -> bool:
    """Equal bit for bit."""
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def market(seed, n, interval=SECOND, lateness=2 * SECOND, per_bar=2.0, gaps=0.02, spikes=0.005) -> TradeTable:
    """Trades in order of arrival: out of order within ``lateness``, with quiet stretches and spikes."""
    rng = np.random.default_rng(seed)
    waits = rng.exponential(interval / per_bar, n)
    waits[rng.random(n) < gaps] *= 20
    ts = START + interval * 5 + np.cumsum(waits).astype(np.int64) // 1_000_000 * 1_000_000
    moves = rng.normal(0.0, 2e-4, n) * np.exp(0.5 * np.sin(np.arange(n) / 200))
    moves[rng.random(n) < spikes] *= 100
    price = np.round(30_000 * np.exp(np.cumsum(moves)), 1)
    arrival = ts + (rng.integers(0, lateness, n) if lateness else 0)
    arrival[0] = 0  # the first to arrive decides where the first bar lies
    order = np.argsort(arrival, kind="stable")
    size = np.round(rng.lognormal(-1, 1, n) + 1e-4, 4)
    side = rng.choice(np.array([-1, 0, 1], np.int8), n)
    ids = 1_000 + np.arange(n)
    return cut(TradeTable(ts, ids, price, size, side), order)


def walk(seed, n, interval=MINUTE, start=START, missing=0.05) -> BarTable:
    """Gap-filled bars of a random walk, a few of them flagged as missing."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n) * (1 + np.abs(np.sin(np.arange(n) / 90)))))
    open_ = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(open_, close) * (1 + rng.exponential(5e-4, n))
    low = np.minimum(open_, close) * (1 - rng.exponential(5e-4, n))
    volume = rng.lognormal(1, 1, n)
    values = np.zeros((n, len(BAR_COLUMNS)))
    values[:, :5] = np.stack([open_, high, low, close, volume], axis=1)
    values[:, 7] = close
    for i in np.flatnonzero(rng.random(n) < missing):
        if i:
            values[i] = 0.0
            values[i, [0, 1, 2, 3, 7]] = values[i - 1, 3]
            values[i, 9] = 1.0
    return BarTable(start + interval * (1 + np.arange(n)), values)


def rows_of(bars, horizon=5 * MINUTE, interval=MINUTE) -> tuple[VectorTable, ExampleTable]:
    """All vectors and examples of some bars."""
    asked = vectors(bars, 0, interval)
    return asked, examples(bars, asked, 0, horizon, interval)


def tape_of(bars, horizon=5 * MINUTE, interval=MINUTE) -> Tape:
    """The whole tape of some bars."""
    return merge(*rows_of(bars, horizon, interval))


def pieces(tape, sizes):
    """Cut a tape into pieces of these sizes, over and over."""
    at, i = 0, 0
    while at < len(tape):
        yield cut(tape, at, at + sizes[i % len(sizes)])
        at += sizes[i % len(sizes)]
        i += 1


def log_rms(returns) -> float:
    """The volatility of some returns in bp, as the features and targets write it."""
    return math.log(math.sqrt(sum(r * r for r in returns) / len(returns)) + 0.1)
