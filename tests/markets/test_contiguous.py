"""What may be handed out, whatever a stream with faults shows and however far REST is behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import Trade
from markets.contiguous import Contiguous
from markets.source import Resume


def trade(k):
    return Trade("toy:A-USD", 10 * k, k, 100.0, 1.0, 1)


def taken(order, *numbers):
    out = []
    for k in numbers:
        order.take(trade(k), out)
    return [t.trade_id for t in out]


def filled(order, *numbers):
    out = []
    order.fill([trade(k) for k in numbers], out)
    return [t.trade_id for t in out]


def test_without_an_id_to_follow_nothing_is_handed_out_before_rest_has_told_where_it_joins():
    order = Contiguous(Resume(50))
    assert taken(order, 8, 9) == []
    assert order.behind
    assert filled(order, 6, 7) == [6, 7, 8, 9]
    assert not order.behind
    assert order.after == Resume(90, 9)


def test_trades_that_the_reader_let_pass_are_no_reason_to_ask():
    order = Contiguous(Resume(50))
    out = []
    assert order.take(trade(5), out)
    assert not out
    assert not order.behind


def test_an_id_that_rest_passes_over_is_absent_unless_the_stream_has_shown_it():
    order = Contiguous(Resume(30, 3))
    assert taken(order, 6) == []
    assert filled(order, 5, 8) == [5, 6, 8]
    assert order.absent == 2  # 4 and 7


def test_rest_that_is_behind_the_stream_proves_nothing_absent():
    order = Contiguous(Resume(30, 3))
    assert taken(order, 9) == []
    assert filled(order, 4, 5) == [4, 5]
    assert order.behind
    assert order.absent == 0


def test_what_is_held_is_bounded_and_rest_tells_what_was_let_go():
    order = Contiguous(Resume(30, 3), most_held=2)
    assert taken(order, 5, 6, 7) == []
    assert (order.held, order.let_go) == (1, 2)
    assert filled(order, 4, 5, 6) == [4, 5, 6, 7]


def test_an_older_trade_that_came_later_does_not_hide_a_newer_one():
    order = Contiguous(Resume(30, 3))
    assert taken(order, 9, 5) == []
    assert filled(order, 4) == [4, 5]
    assert order.behind


def test_a_trade_shown_twice_while_it_is_held_is_dropped_once():
    order = Contiguous(Resume(30, 3))
    assert taken(order, 5, 5) == []
    assert order.duplicates == 1
    assert taken(order, 4, 5) == [4, 5]
    assert order.duplicates == 2


@pytest.mark.slow
@given(
    existing=st.sets(st.integers(1, 60), min_size=1),
    shown=st.lists(st.integers(1, 60), max_size=80),
    known=st.lists(st.integers(0, 60), max_size=6),
    resume=st.one_of(st.none(), st.integers(0, 10)),
    most_held=st.integers(1, 20),
    data=st.data(),
)
def test_everything_that_exists_is_handed_out_once_and_in_order(existing, shown, known, resume, most_held, data):
    """``known``: up to which id REST knows, each time it is asked, between any two trades of the stream."""
    order = Contiguous(Resume(0) if resume is None else Resume(10 * resume, resume), most_held)
    shown = [k for k in shown if k in existing]
    asks = sorted(zip(data.draw(st.lists(st.integers(0, len(shown)), min_size=len(known), max_size=len(known))),
                      known, strict=True))  # fmt: skip
    wanted = [k for k in sorted(existing) if k > (resume or 0)]
    out = []
    for place in range(len(shown) + 1):
        for at, until in asks:
            if at == place:
                # REST knows at least what it has told before, and all below what it knows.
                after = order.after.after_trade_id or 0
                order.fill([trade(k) for k in wanted if after < k <= until], out)
        if place < len(shown):
            order.take(trade(shown[place]), out)
        assert [t.trade_id for t in out] == wanted[: len(out)]
        assert order.held <= most_held
    while order.behind:
        order.fill([trade(k) for k in wanted if k > (order.after.after_trade_id or 0)][:7], out)
    order.fill([trade(k) for k in wanted], out)
    assert [t.trade_id for t in out] == wanted


def test_an_exchange_that_counts_anew_is_noticed_and_a_repetition_is_not():
    order, out = Contiguous(Resume(0, 100)), []
    minute = 60 * 10**9
    for number, ts in ((101, minute), (102, 5 * minute), (101, minute), (102, 5 * minute), (7, 6 * minute)):
        order.take(Trade("toy:A-USD", ts, number, 1.0, 1.0, 1), out)
    assert order.anew is None
    order.take(Trade("toy:A-USD", 6 * minute + 1, 8, 1.0, 1.0, 1), out)
    assert order.anew.trade_id == 8
    assert [trade.trade_id for trade in out] == [101, 102]
