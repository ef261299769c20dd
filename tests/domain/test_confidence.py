"""Intervals cover what they promise although neighbours resemble each other, where the plain ones do not."""

import math

import numpy as np
import pytest

from domain.confidence import ENOUGH, mean, skill, slope

N, TRIALS = 1_000, 400
PROMISED = (0.92, 0.98)
"""95 %, give or take three standard errors of the share of ``TRIALS``."""


def ar(rng, n, phi):
    noise = rng.normal(size=n + 100)
    out = np.empty(n + 100)
    out[0] = noise[0]
    for i in range(1, len(out)):
        out[i] = phi * out[i - 1] + noise[i]
    return out[100:]


def overlapping(rng, n, h=5, wild=0.4):
    """Sums over the next ``h`` steps of noise whose size clusters, as targets over a horizon are."""
    noise = rng.normal(size=n + h) * np.exp(wild * ar(rng, n + h, 0.8))
    return np.convolve(noise, np.ones(h), "valid")[:n]


def absent(rng, series, share=0.2):
    """The series with stretches of ten places missing."""
    gone = np.repeat(rng.random(len(series) // 10) < share, 10)
    return np.where(gone, np.nan, series)


def covered(trials, truth):
    return np.mean([found.low <= truth <= found.high for found in trials])


SERIES = {
    "independent": lambda rng: rng.normal(size=N),
    "AR(1), phi 0.5": lambda rng: ar(rng, N, 0.5),
    "AR(1), phi 0.8": lambda rng: ar(rng, N, 0.8),
    "overlapping": lambda rng: overlapping(rng, N),
    "with absent rows": lambda rng: absent(rng, overlapping(rng, N)),
}


@pytest.mark.parametrize("series", SERIES)
def test_the_interval_of_a_mean_covers_it_as_often_as_promised(series):
    rng = np.random.default_rng(1)
    trials = [mean(SERIES[series](rng), 5) for _ in range(TRIALS)]
    assert PROMISED[0] <= covered(trials, 0.0) <= PROMISED[1]


def test_the_plain_interval_of_overlapping_rows_covers_the_mean_far_less_often():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(TRIALS):
        x = overlapping(rng, N)
        hits += abs(x.mean()) <= 1.96 * x.std() / math.sqrt(N)
    assert hits / TRIALS < 0.7


def test_the_interval_of_a_skill_covers_it_as_often_as_promised():
    rng = np.random.default_rng(2)
    power = 5 * math.exp(0.4**2 / 2 / (1 - 0.8**2))  # variance of ``overlapping``: five squares of lognormal size
    truth = 1 - power / (power + 4.0)
    trials = []
    for _ in range(TRIALS):
        y = overlapping(rng, N, wild=0.2)
        trials.append(skill(y**2, (y + 2.0 * rng.normal(size=N)) ** 2, 5))
    assert PROMISED[0] <= covered(trials, truth) <= PROMISED[1]


def test_the_interval_of_a_slope_covers_it_as_often_as_promised():
    rng = np.random.default_rng(3)
    trials = []
    for _ in range(TRIALS):
        x = ar(rng, N, 0.8)
        trials.append(slope(x, 0.7 * x + overlapping(rng, N), 5))
    assert PROMISED[0] <= covered(trials, 0.7) <= PROMISED[1]


def test_a_figure_is_that_of_the_rows_that_have_one():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=200), rng.normal(size=200)
    x[::7], y[::5] = np.nan, np.nan
    both = np.isfinite(x) & np.isfinite(y)
    assert mean(x, 5).value == pytest.approx(np.nanmean(x))
    assert mean(x, 5).n == np.isfinite(x).sum()
    assert skill(x**2, y**2, 5).value == pytest.approx(1 - (x[both] ** 2).mean() / (y[both] ** 2).mean())
    assert slope(x, y, 5).value == pytest.approx(np.polyfit(x[both], y[both], 1)[0])
    assert skill(x**2, y**2, 5).n == slope(x, y, 5).n == both.sum()


def test_absent_rows_at_both_ends_change_nothing():
    x = np.random.default_rng(5).normal(size=300)
    padded = np.concatenate([np.full(500, np.nan), x, np.full(900, np.nan)])
    assert mean(padded, 5) == mean(x, 5)


def test_a_handful_of_rows_has_no_interval_rather_than_a_wrong_one():
    x = np.random.default_rng(6).normal(size=ENOUGH)
    assert mean(x, 5) is not None
    assert mean(x[1:], 5) is None
    assert mean(np.full(100, np.nan), 5) is None
    assert skill(x**2, np.zeros(ENOUGH), 5) is None
    assert skill(np.full(100, np.nan), np.ones(100), 5) is None
    assert slope(np.ones(ENOUGH), x, 5) is None
