"""Waiting: how long for what fails, and for a budget."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Unavailable
from markets.patience import Budget, Passing, Patience
from tests.markets.servers import Slept


@given(st.lists(st.floats(0, 0.999), min_size=60, max_size=60))
def test_each_wait_may_be_twice_as_long_and_patience_ends(chances):
    """Full jitter: between nothing and a bound that doubles to 30 s; what is waited in all stays within patience."""
    slept = Slept(iter([*chances, *[0.5] * 1_000]).__next__)

    async def run():
        async def attempt(left):
            assert left > 0
            raise Passing("no")

        with pytest.raises(Unavailable, match="no"):
            await Patience(120.0, slept.timing, lambda _: None).until_done(attempt)

    asyncio.run(run())
    assert sum(slept.waits) < 120
    for number, (wait, chance) in enumerate(zip(slept.waits, chances, strict=False)):
        assert wait == chance * min(30.0, 0.5 * 2**number)


def test_a_last_attempt_that_hardly_had_time_does_not_hide_what_was_wrong():
    slept = Slept()

    async def run():
        async def attempt(left):
            if left < 1:
                raise Passing(f"no answer within {left:g} s")
            raise Passing("maintenance", wait_s=119.9)

        with pytest.raises(Unavailable, match="maintenance"):
            await Patience(120.0, slept.timing, lambda _: None).until_done(attempt)

    asyncio.run(run())
    assert slept.waits[0] == 119.9


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 20)), min_size=1, max_size=80))
def test_no_minute_sees_more_than_its_weight(requests):
    """Whichever minute the exchange counts: any 60 seconds hold at most the whole, however requests come."""
    slept = Slept()
    spent = []

    async def run():
        budget = Budget(100, slept.timing)
        for weight, pause in requests:
            await budget.take(weight)
            spent.append((slept.now, min(weight, 25)))
            slept.now += pause

    asyncio.run(run())
    for since, _ in spent:
        assert sum(weight for at, weight in spent if since <= at < since + 60) <= 100.001
