"""A short market drawn from a seed, a plan to replay it, and what its undisturbed replay leaves."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from markets.drawn import draw_candles
from orchestration.chaos import KEPT, at_home, paced
from orchestration.planned import plan
from orchestration.replay import Replay

MINUTES = 1_500


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("chaos")
    draw_candles(root / "candles.parquet", ("AAA-USD", "BBB-USD"), MINUTES, seed=5)
    with plan([root / "candles.parquet"], "", "", "", [], root / "home") as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(planned):
    """The plan that ran undisturbed, and its report."""
    calm = at_home(planned, planned.places.home / "undisturbed")
    return calm, Replay(calm).run()


@pytest.fixture
def wild(planned, tmp_path):
    """A plan in a home of its own, at a speed that leaves time to do harm."""
    return paced(at_home(planned, tmp_path / "wild"), 10.0)


@pytest.fixture
def disturbed():
    """Replay a plan while something acts on it."""

    def run(planned, act):
        return Replay(planned, on_tick=act, policy=KEPT, give_up=sys.maxsize).run()

    return run


def elsewhere(planned, **places):
    """Return the plan with other places."""
    return replace(planned, places=planned.places.model_copy(update=places))
