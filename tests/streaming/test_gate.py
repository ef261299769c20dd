"""The gate: records of the grid pass once and in order, and a stranger far ahead stops nobody."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import MAX_FILL
from domain.tables import VectorTable
from streaming import codec
from streaming.clock import SystemClock
from streaming.gate import Gate, newest_in_order, newest_trade
from streaming.memory import Memory
from streaming.transport import Records

STEP = 10


def rows(ts):
    return VectorTable(np.array(ts, np.int64), np.array([[float(t)] * 16 for t in ts]).reshape(len(ts), 16))


class Refused(list):
    def __call__(self, records, i, error):
        self.append((records.offsets[i], error.reason, records.values[i]))


def offer(gate, ts, first):
    offsets = list(range(first, first + len(ts)))
    table, passed = gate.admit(rows(ts), offsets, Records("t", 0, offsets, [b"%d" % t for t in ts]))
    assert (table.values[:, 0] == table.ts).all()
    return table.ts.tolist(), passed


def test_a_stranger_far_ahead_is_held_then_refused_with_its_own_bytes_and_nothing_after_it_is_lost():
    refused = Refused()
    gate = Gate(100, STEP, refused)
    assert offer(gate, [110, 10**9], 0) == ([110], [0])
    assert (gate.resume(2), refused) == (1, [])
    assert offer(gate, [120, 130], 2) == ([120, 130], [2, 3])
    assert refused == [(1, "ahead", b"1000000000")]
    assert gate.resume(4) == 4


def test_the_first_records_after_a_real_gap_pass_late_but_all():
    gate = Gate(100, STEP, Refused())
    assert offer(gate, [500], 0) == ([], [])
    assert offer(gate, [510], 1) == ([], [])
    assert gate.resume(2) == 0
    assert offer(gate, [520, 530], 2) == ([500, 510, 520, 530], [0, 1, 2, 3])


def test_what_repeats_is_dropped_and_counted_and_what_is_off_the_grid_is_refused():
    refused = Refused()
    gate = Gate(100, STEP, refused)
    assert offer(gate, [110, 100, 110, 115, 120], 0) == ([110, 120], [0, 4])
    assert (gate.repeated, refused) == (2, [(3, "grid", b"115")])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from([10, 10, 10, 10, 20, 400, -10, -60, 5, 10**8]), min_size=1, max_size=60),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.data(),
)
def test_a_restart_at_any_time_reads_again_from_where_the_gate_says_and_passes_each_row_once(jumps, sizes, data):
    ts, at = [], 100
    for jump in jumps:
        ts.append(at + jump)
        at = ts[-1] if jump in {10, 20, 400} else at
    whole = Refused()
    expected, _ = offer(Gate(100, STEP, whole), ts, 0)
    gate, again, got, i, k = Gate(100, STEP, Refused()), Refused(), [], 0, 0
    while i < len(ts):
        size = sizes[k % len(sizes)]
        passed, _ = offer(gate, ts[i : i + size], i)
        got += passed
        i, k = min(len(ts), i + size), k + 1
        if data.draw(st.booleans()):
            i, gate = gate.resume(i), Gate(gate.newest, STEP, again)
    assert got == expected
    assert set(again) <= set(whole)


def bar(ts):
    return codec.encode(codec.Bar("a:B", ts, 1.0, 1.0, 1.0, 1.0, 1.0))


def test_the_newest_record_of_a_grid_is_the_newest_that_others_agree_with():
    memory, key = Memory(), ("bars", 0)
    assert newest_in_order(memory, SystemClock(), key, codec.bar, STEP) is None
    memory.append(key, [bar(110), bar(120)])
    assert newest_in_order(memory, SystemClock(), key, codec.bar, STEP) is None
    memory.append(key, [bar(130), bar(140), bar(10**9), b"rubbish", bar(10**9 + STEP)])
    assert newest_in_order(memory, SystemClock(), key, codec.bar, STEP).ts_event == 140
    memory.append(key, [b"rubbish"] * 300)
    assert newest_in_order(memory, SystemClock(), key, codec.bar, STEP).ts_event == 140


def test_the_newest_trade_is_not_one_whose_clock_is_further_ahead_than_a_gap_is_filled():
    memory, key = Memory(), ("trades", 0)
    for number, ts in enumerate([100, 130, 120, 130 + MAX_FILL * STEP + 1]):
        memory.append(key, [codec.encode(codec.Trade("a:B", ts, number, 1.0, 1.0, 1))])
    assert newest_trade(memory, SystemClock(), key, STEP).ts_event == 130
