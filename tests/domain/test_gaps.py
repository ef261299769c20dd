import numpy as np

from domain.gaps import gaps_of, longest_run


def test_a_whole_window_lacks_nothing():
    found = gaps_of(np.arange(10, 70, 10), 0, 60, 10)
    assert (found.rows, found.expected, found.doubled, found.strayed, found.holes) == (6, 6, 0, 0, ())
    assert (found.absent, found.longest) == (0, 0)


def test_what_is_absent_before_between_and_after_the_rows_is_told():
    found = gaps_of(np.array([30, 40, 80]), 0, 100, 10)
    assert found.holes == ((0, 2), (40, 3), (80, 2))
    assert (found.absent, found.longest, found.rows + found.absent) == (7, 3, found.expected)


def test_doubled_and_strayed_rows_do_not_hide_a_hole():
    found = gaps_of(np.array([10, 10, 25, 40]), 0, 40, 10)
    assert (found.doubled, found.strayed) == (1, 1)
    assert found.absent == 2


def test_a_window_without_rows_is_one_hole():
    assert gaps_of(np.empty(0, np.int64), 20, 50, 10).holes == ((20, 3),)
    assert gaps_of(np.empty(0, np.int64), 20, 20, 10).expected == 0


def test_the_longest_run_may_lie_at_either_end():
    assert longest_run(np.array([True, True, False, True])) == 2
    assert longest_run(np.array([False, True, True, True])) == 3
    assert longest_run(np.zeros(5, bool)) == longest_run(np.zeros(0, bool)) == 0
