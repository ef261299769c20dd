"""Days under different seeds: no invariant is violated at any step, and a seed is the same day every time."""

import os

import pytest

from tests.simulation.day import live

DAYS = int(os.environ.get("TIDEMILL_SIMULATED_DAYS", "20"))
"""How many: some seconds' worth here, 200 where all tests run, more before a release."""

GROUP = 10


@pytest.mark.parametrize("first", range(1, DAYS + 1, GROUP))
def test_no_invariant_is_violated_at_any_step_of_any_day(first):
    for seed in range(first, min(first + GROUP, DAYS + 1)):
        day = live(seed)
        assert not day.violation, f"{day.violation}\nreplay: {day.replay}"
        assert day.versions > 1


def test_a_seed_is_the_same_day_every_time():
    first, second = live(3, hours=8.0), live(3, hours=8.0)
    assert first.trace == second.trace
    assert first == second
    assert live(4, hours=8.0).trace != first.trace
