"""The inbox keeps each row once, in order, and knows from which offset a restart must read again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.tables import VectorTable
from streaming.inbox import Inbox


def rows(*ts):
    return VectorTable(np.array(ts, np.int64), np.array([[float(t)] * 16 for t in ts]).reshape(len(ts), 16))


def test_a_row_that_is_not_newer_than_the_newest_seen_is_dropped():
    inbox = Inbox.of_vectors(10).start_at(0)
    inbox.add(rows(9, 10, 11, 11, 12), [0, 1, 2, 3, 4], 5)
    assert inbox.table.ts.tolist() == [11, 12]
    inbox.add(rows(12, 13), [5, 6], 7)
    assert inbox.table.ts.tolist() == [11, 12, 13]


def test_a_restart_reads_again_from_the_first_row_that_still_waits():
    inbox = Inbox.of_vectors(0).start_at(100)
    assert inbox.next_offset == 100
    inbox.add(rows(1, 2, 3), [100, 101, 103], 104)
    assert inbox.next_offset == 100
    assert inbox.take(2).ts.tolist() == [1, 2]
    assert inbox.next_offset == 103
    inbox.take(3)
    assert inbox.next_offset == 104


@given(st.lists(st.integers(1, 40), max_size=60), st.data())
def test_however_a_stream_is_cut_and_repeated_each_row_comes_out_once_and_in_order(times, data):
    inbox, out, offset = Inbox.of_vectors(0).start_at(0), [], 0
    while offset < len(times):
        n = data.draw(st.integers(1, 7))
        piece = times[offset : offset + n]
        inbox.add(rows(*piece), list(range(offset, offset + len(piece))), offset + len(piece))
        offset += len(piece)
        out += inbox.take(data.draw(st.integers(0, 45))).ts.tolist()
    out += inbox.take(2**62).ts.tolist()
    newest, expected = 0, []
    for t in times:
        if t > newest:
            expected.append(t)
            newest = t
    assert out == expected
