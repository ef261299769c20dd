"""The inbox keeps rows in order, and knows from which offset a restart must read again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.tables import VectorTable
from streaming.inbox import Inbox


def rows(*ts):
    return VectorTable(np.array(ts, np.int64), np.array([[float(t)] * 16 for t in ts]).reshape(len(ts), 16))


def test_a_restart_reads_again_from_the_first_row_that_still_waits():
    inbox = Inbox.of_vectors().start_at(100)
    assert inbox.next_offset == 100
    inbox.add(rows(1, 2, 3), [100, 101, 103], 104)
    assert inbox.next_offset == 100
    assert inbox.take(2).ts.tolist() == [1, 2]
    assert inbox.next_offset == 103
    inbox.take(3)
    assert inbox.next_offset == 104


@given(st.lists(st.integers(1, 9), max_size=60), st.data())
def test_however_a_stream_is_cut_each_row_comes_out_once_and_in_order(steps, data):
    times = np.cumsum(steps).tolist()
    inbox, out, offset = Inbox.of_vectors().start_at(0), [], 0
    while offset < len(times):
        piece = times[offset : offset + data.draw(st.integers(1, 7))]
        inbox.add(rows(*piece), list(range(offset, offset + len(piece))), offset + len(piece))
        offset += len(piece)
        out += inbox.take(data.draw(st.integers(0, 300))).ts.tolist()
        assert inbox.next_offset == len(out)
    out += inbox.take(2**62).ts.tolist()
    assert out == times
