"""Whatever a stream shows and requests tell, in whatever order: each trade goes out once, in ascending order of ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import Trade
from markets.ascending import Ascending
from markets.source import Resume
from tests.markets.toy import START, A

IDS = st.lists(st.integers(1, 60), max_size=12)


def trades(numbers, shift=0):
    return [Trade(A, START + n, n + shift, 1.0 + n, 1.0, 1) for n in numbers]


def numbers(handed_out):
    return [trade.trade_id for trade in handed_out]


@given(st.lists(st.tuples(IDS, IDS), max_size=8), st.integers(3, 20))
def test_each_goes_out_once_and_ascending(rounds, most_held):
    order, out = Ascending(Resume(START - 1), most_held), []
    for shown, told in rounds:
        order.show(trades(shown))
        last = order.ask()
        out += numbers(order.release(order.fill(trades(sorted(told)))))
        if last is not None:
            out += numbers(order.release(last))
    out += numbers(order.release(None))
    assert out == sorted(set(out))
    assert order.newest == (out[-1] if out else None)


@pytest.mark.slow
@given(st.sets(st.integers(1, 200), min_size=1), st.data())
def test_what_the_stream_leaves_out_and_requests_tell_is_not_missing(lost, data):
    order, out = Ascending(Resume(START - 1, 0)), []
    shown = [n for n in range(1, 202) if n not in lost]
    while shown:
        n = data.draw(st.integers(1, len(shown)))
        order.show(trades(shown[:n]))
        shown = shown[n:]
        if order.behind:
            last = order.ask()
            out += numbers(order.release(order.fill(trades(range(1, last + 1)))))
        out += numbers(order.release(None))
    assert out == list(range(1, 202))
    assert order.absent == 0


def test_ids_that_follow_each_other_take_a_doubt_away():
    order = Ascending(Resume(START - 1, 0))
    order.show(trades(range(1, 150)))
    assert order.behind, "too few are known yet"
    order.ask()
    order.release(None)
    order.doubt()
    assert order.behind, "what is not shown is anybody's"
    order.show(trades([150, 151]))
    assert not order.behind
    order.show(trades([153]))
    assert order.behind


def test_more_than_is_held_is_let_go_and_asked_for():
    order = Ascending(Resume(START - 1, 0), most_held=3)
    order.ask()
    order.show(trades([1, 2, 3, 4]))
    assert (order.let_go, order.behind) == (3, True)
    assert numbers(order.release(order.fill(trades([1, 2, 3, 4])))) == [1, 2, 3, 4]


def test_the_same_trades_by_other_ids_are_noticed_and_a_coincidence_is_not():
    order = Ascending(Resume(START - 1))
    order.show(trades(range(1, 10)))
    order.fill(trades(range(1, 5), shift=1_000))
    assert not order.two_numberings
    order.fill(trades(range(5, 8), shift=1_000))
    assert order.two_numberings
    order.fill(trades([9]))
    assert not order.two_numberings
