"""The compiled Page-Hinkley test against River's, and what it says of losses that rise."""

import numpy as np
import pytest
from river.drift import PageHinkley

from domain import drift


def column():
    return drift.empty(1, 1)[:, 0, 0]


def run(losses):
    """Return the state after relative losses, and the steps at which a drift was declared."""
    state, found = column(), []
    for i, x in enumerate(losses):
        drift.step(state, x)
        if state[drift.FOUND]:
            found.append(i)
    return state, found


@pytest.mark.parametrize("seed", range(5))
def test_it_declares_the_drifts_that_river_declares_with_the_same_sums(seed):
    rng = np.random.default_rng(seed)
    scale = np.repeat(rng.uniform(0.3, 6.0, 12), 700)
    losses = scale * rng.normal(size=len(scale)) ** 2
    river = PageHinkley(delta=drift.ALLOWANCE, threshold=drift.THRESHOLD, alpha=drift.ALPHA, mode="up")
    state, found = column(), []
    for i, x in enumerate(losses):
        drift.step(state, x)
        river.update(x)
        assert (river._x_mean.get(), river._sum_increase, river._min_increase) == tuple(
            state[[drift.MEAN, drift.SUM, drift.LOWEST]]
        )
        assert river.drift_detected == bool(state[drift.FOUND])
        if state[drift.FOUND]:
            found.append(i)
    assert found, "losses that grow several times must be noticed"
    assert state[drift.COUNT] == len(found)


def test_losses_a_third_too_high_are_noticed_within_a_thousand_labels_and_steady_ones_are_not():
    rng = np.random.default_rng(1)
    steady = rng.normal(size=20_000) ** 2
    state, found = run(steady)
    assert found == []
    assert 0.0 <= drift.level(state) < 1.0
    _, found = run([*steady, *(1.33 * rng.normal(size=1_000) ** 2)])
    assert found
    assert found[0] >= 20_000


def test_before_the_first_loss_nothing_drifts():
    assert drift.level(column()) == 0.0
