"""What may be removed: laws that hold for any versions at any time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.retention import DAY_S, EVENTS, HOUR_S, MONTH_S, VERSIONS, Age, Tier, expired

NOW = 20_000 * DAY_S + 12_345.0
agos = st.one_of(st.floats(-10, 2 * HOUR_S), st.floats(0, 2 * DAY_S), st.floats(0, 1.2 * MONTH_S))
later = st.one_of(st.floats(0, HOUR_S), st.floats(0, 2 * MONTH_S))


@st.composite
def lines(draw):
    """Versions of one line, older ones first, with some protected ones."""
    times = sorted(NOW - ago for ago in draw(st.lists(agos, max_size=80)))
    ages = [Age(number, at) for number, at in enumerate(times, 1)]
    return ages, draw(st.sets(st.sampled_from(range(1, len(ages) + 2)), max_size=5))


def survivors(ages, gone):
    return [age for age in ages if age.number not in gone]


@given(lines())
def test_what_is_protected_is_never_removed(line):
    ages, protected = line
    assert not expired(ages, protected, NOW) & protected
    assert expired(ages, protected, NOW) == expired(ages, (), NOW) - protected


@pytest.mark.slow
@given(lines())
def test_what_stays_once_stays_again(line):
    ages, protected = line
    assert expired(survivors(ages, expired(ages, protected, NOW)), protected, NOW) == set()


@given(lines(), later)
def test_what_may_go_today_may_go_tomorrow(line, wait):
    ages, protected = line
    assert expired(ages, protected, NOW) <= expired(ages, protected, NOW + wait)


@given(lines(), st.lists(later, max_size=6))
def test_pruning_often_leaves_the_same_as_pruning_once(line, waits):
    ages, now, left = line[0], NOW, line[0]
    for wait in waits:
        left = survivors(left, expired(left, (), now))
        now += wait
    left = survivors(left, expired(left, (), now))
    assert left == survivors(ages, expired(ages, (), now))


@pytest.mark.slow
@given(lines())
def test_the_last_hour_need_not_be_looked_at(line):
    ages, protected = line
    old = [age for age in ages if age.created_at < NOW - HOUR_S]
    assert expired(old, protected, NOW) == expired(ages, protected, NOW)


@given(lines())
def test_every_version_stays_for_an_hour_one_an_hour_for_a_day_and_one_a_day_for_a_month(line):
    ages, _ = line
    gone = expired(ages, (), NOW)
    for span, every in ((HOUR_S, None), (DAY_S, HOUR_S), (MONTH_S, DAY_S)):
        for age in ages:
            if NOW - age.created_at > span:
                continue
            if every is None:
                assert age.number not in gone
            elif not any(
                a.created_at // every == age.created_at // every for a in ages if a.created_at < age.created_at
            ):
                first = min(a.number for a in ages if a.created_at == age.created_at)
                assert first not in gone
    for age in ages:
        if NOW - age.created_at > MONTH_S:
            assert age.number in gone


@pytest.mark.slow
@pytest.mark.parametrize(("days", "at_most"), [(0.5, 3_601 + 12), (1, 3_601 + 25), (40, 3_601 + 25 + 31)])
def test_a_line_that_publishes_once_a_second_keeps_some_thousands(days, at_most):
    ages = [Age(n, NOW - DAY_S * days + n) for n in range(1, int(DAY_S * days) + 1, 1 if days <= 1 else 7)]
    assert HOUR_S / 7 < len(survivors(ages, expired(ages, (), NOW))) <= at_most


def test_a_year_of_events_every_ten_minutes_keeps_some_hundreds():
    ages = [Age(n, NOW - 600.0 * n) for n in range(365 * 144)]
    assert len(survivors(ages, expired(ages, (), NOW, EVENTS))) <= 145 + 6 * 24 + 1 + 359


@pytest.mark.parametrize("rule", [VERSIONS, EVENTS])
def test_the_periods_of_a_tier_are_whole_periods_of_the_one_before(rule):
    """So that the first of a day was the first of its hour, and is still there when the hours go."""
    assert rule[0].every_s == 0.0
    for finer, coarser in itertools.pairwise(rule[1:]):
        assert isinstance(coarser, Tier)
        assert coarser.every_s % finer.every_s == 0.0
        assert coarser.until_s > finer.until_s
