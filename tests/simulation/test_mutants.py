"""The simulation can fail: every planted bug is found within a few seeds, by the law that it breaks."""

import pytest

from tests.simulation.day import live
from tests.simulation.mutants import MUTANTS

SEEDS = range(1, 25)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found_by_the_law_that_it_breaks(mutant):
    for seed in SEEDS:
        with mutant.plant():
            day = live(seed)
        if day.violation:
            assert day.invariant in mutant.caught_by, day.violation
            return
    pytest.fail(f"{mutant.name} was not found in {len(SEEDS)} seeds")
