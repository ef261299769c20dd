"""The card of what was served scores it as the line itself does: the same answers, the same yardsticks."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from assets.card import BINS, RANGES
from assets.partitions import history_of
from assets.scorecard import served_card, training_card
from domain.events import NANOS_PER_DAY
from domain.features import TARGETS
from warehouse.keys import model_key
from warehouse.registry import Registry

BTC = "simulated:BTC-USD"


@pytest.fixture(scope="module")
def card(served):
    mill, _ = served
    with mill.lake() as lake, mill.control() as control:
        return served_card(lake, mill.project, BTC, 168, Registry(control, mill.places.models, model_key(mill.places)))


def test_every_loss_is_the_lines_own_at_question_time(served, card):
    """Averages that knew more, less, or were calibrated on the window itself would score otherwise."""
    _, lines = served
    scores = lines[BTC].scores()
    for k, target in enumerate(TARGETS):
        for member, score in scores[target].items():
            mine = card.losses[:, k] if member == "rls" else card.yardsticks[member][:, k]
            assert np.isfinite(mine).sum() == score["n"] > 1_000
            assert np.nanmean(mine) == pytest.approx(score["loss"], rel=1e-12), (target, member)
    assert set(card.yardsticks) == {"mean", "persistence", "ewma", "frozen"}


def test_the_window_ends_at_the_newest_label_and_begins_where_serving_did(served, card):
    mill, _ = served
    history = history_of(mill.project)
    assert card.until == history.until - mill.project.horizon
    assert card.since == history.start + NANOS_PER_DAY
    assert (card.vectors, card.answered) == (1435, 1435)


def test_fewer_hours_are_the_same_answers_cut_off(served, card):
    mill, _ = served
    with mill.lake() as lake:
        short = served_card(lake, mill.project, BTC, 3, None)
    assert short.until - short.since == 3 * 3600 * 10**9
    assert np.array_equal(short.losses, card.losses[-180:], equal_nan=True)
    assert set(short.yardsticks) == {"mean", "persistence", "ewma"}
    # Calibrated on all that came before, hence not quite as in the longer window.
    assert np.nanmean(short.yardsticks["ewma"]) == pytest.approx(np.nanmean(card.yardsticks["ewma"][-180:]), rel=0.1)


def test_what_was_not_served_has_no_card(served):
    mill, _ = served
    with mill.lake() as lake:
        assert served_card(lake, mill.project, "simulated:SOL-USD", 168, None) is None


def test_bins_hold_every_answer_once_and_rise_with_what_they_are_sorted_by(card):
    for k in range(len(TARGETS)):
        bins = card.reliability(k)
        assert len(bins) == BINS
        assert sum(b.found.n for b in bins) == np.isfinite(card.losses[:, k]).sum()
        assert np.all(np.diff([b.at for b in bins]) > 0)
    ages = card.by_age(2, 60.0)
    assert sum(b.found.n for b in ages) == np.isfinite(card.losses[:, 2]).sum()
    assert [b.at for b in ages[:2]] == [60.0, pytest.approx(180.0, rel=0.2)]


def test_ranges_of_versions_hold_every_answer_once_and_are_few(card):
    ranges = card.ranges()
    assert RANGES * 0.8 <= len(ranges) <= RANGES
    assert sum(r.n for r in ranges) == card.answered
    assert all(a.last < b.first and a.until <= b.until for a, b in pairwise(ranges))
    weights = np.array([r.n for r in ranges])
    assert (weights @ np.array([r.loss[2] for r in ranges])) / weights.sum() == pytest.approx(card.loss(2).value)
    newest = card.versions(3)
    assert [r.first for r in newest] == [r.last for r in newest] == sorted({*card.version.tolist()})[:-4:-1]


def test_the_hardest_yardstick_is_the_best_of_the_simple_ones(card):
    for k in range(len(TARGETS)):
        skills = {name: card.skill(k, name).value for name in ("mean", "persistence", "ewma")}
        assert card.hardest(k) == min(skills, key=skills.get)


def test_a_first_version_that_does_not_load_is_told_and_leaves_the_other_yardsticks(served):
    mill, _ = served
    with mill.lake() as lake, mill.control() as control:
        registry = Registry(control, mill.places.models, b"another key that signs nothing here")
        card = served_card(lake, mill.project, BTC, 168, registry)
    assert "frozen" not in card.yardsticks
    assert "signed" in card.unread or "signature" in card.unread, card.unread


def test_a_first_training_is_scored_on_its_second_half(served):
    mill, _ = served
    history = history_of(mill.project)
    with mill.lake() as lake:
        card = training_card(lake, mill.project, BTC, history.start, history.until)
        assert training_card(lake, mill.project, BTC, history.start, history.start + 3600 * 10**9) is None
    asked = 2 * 1440 - 240 - 5
    assert len(card.losses) == pytest.approx(asked / 2, abs=2)
    assert np.isfinite(card.losses[:, 2]).all()
    assert card.skill(2, "mean").value > 0.0
    better = dataclasses.replace(card, losses=card.losses / 2)
    assert better.skill(2, "mean").value > card.skill(2, "mean").value
