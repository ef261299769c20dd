"""Records are flat JSON that gives back the very bits, and what does not fit is refused one by one."""

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.events import Prediction
from domain.features import FEATURES, TARGETS
from domain.tables import BarTable, ExampleTable, VectorTable
from streaming import codec
from streaming.transport import Records

HORIZON = 300 * 10**9

finite = st.floats(allow_nan=False, allow_infinity=False)


def records(values, topic="t"):
    return Records(topic, 0, list(range(10, 10 + len(values))), values)


class Refused(list):
    def __call__(self, records, i, error):
        self.append((records.offsets[i], error.reason))


@given(st.lists(st.lists(finite, min_size=19, max_size=19), max_size=4), st.booleans())
def test_examples_come_back_bit_for_bit_and_no_move_is_null(rows, still):
    n = len(rows)
    values = np.array([r[:16] for r in rows]).reshape(n, 16)
    targets = np.clip(np.array([r[16:] for r in rows]).reshape(n, 3), -codec.LARGEST, codec.LARGEST)
    if still:
        targets[:, 1] = math.nan
    table = ExampleTable(np.arange(n) + 1, np.arange(n) + 1 + HORIZON, values, targets)
    encoded = codec.encode_examples("a:B", table, 300)
    for line in encoded:
        flat = json.loads(line)
        assert set(flat) == {"instrument", "ts_event", "ts_available", "horizon_s", *FEATURES, *TARGETS}
        assert (flat["direction"] is None) == still
    back, offsets = codec.examples(records(encoded), "a:B", Refused(), HORIZON)
    assert back.values.tobytes() == values.tobytes()
    assert np.array_equal(back.targets, targets, equal_nan=True)
    assert (back.ts.tolist(), back.available.tolist()) == (table.ts.tolist(), table.available.tolist())
    assert offsets == list(range(10, 10 + n))


def test_vectors_and_bars_come_back_bit_for_bit():
    rng = np.random.default_rng(1)
    vectors = VectorTable(np.arange(5) + 1, rng.standard_normal((5, 16)))
    back, _ = codec.vectors(records(codec.encode_vectors("a:B", vectors)), "a:B", Refused())
    assert back.values.tobytes() == vectors.values.tobytes()
    values = rng.random((5, 10)) + 1
    values[:, 1], values[:, 2] = values[:, :4].max(axis=1), values[:, :4].min(axis=1)
    bars = BarTable(np.arange(5) + 1, values)
    back, _ = codec.bars(records(codec.encode_bars("a:B", bars)), "a:B", Refused())
    assert back.values.tobytes() == bars.values.tobytes()


def test_what_does_not_fit_is_refused_with_its_offset_and_reason_and_the_rest_goes_on():
    good = b'{"instrument":"a:B","ts_event":1,"trade_id":7,"price":2.5,"size":1.0,"side":1}'
    values = [
        good,
        b"\xff\xfe not json",
        b'{"instrument":"a:B"}',
        good.replace(b"a:B", b"a:C"),
        good.replace(b"2.5", b"-2.5"),
        good.replace(b"2.5", b"0"),
        good.replace(b"2.5", b"1e999"),
        good.replace(b"2.5", b"null"),
        good.replace(b'"price":2.5', b'"price":NaN'),
        good,
    ]
    refused = Refused()
    table, offsets = codec.trades(records(values), "a:B", refused)
    assert len(table) == 2
    assert offsets == [10, 19]
    assert [offset for offset, _ in sorted(refused)] == list(range(11, 19))
    assert dict(refused)[13] == "instrument"
    assert dict(refused)[14] == dict(refused)[15] == "price"
    assert {dict(refused)[o] for o in (11, 12, 17, 18)} == {"schema"}


def test_a_record_without_a_time_counts_as_new_so_that_a_search_never_skips_what_is_before_it():
    assert codec.event_time(b'{"ts_event": 5}') == 5
    assert codec.event_time(b"rubbish") > 2**62


def test_a_bar_that_no_market_could_make_is_refused():
    good = np.array([2.0, 3.0, 1.0, 2.5, 9.0, 4.0, 5.0, 2.2, 7.0, 0.0])
    wrong = []
    for column, value in ((1, 2.4), (2, 2.1), (2, 0.0), (4, -1.0), (9, -1.0)):
        row = good.copy()
        row[column] = value
        wrong.append(row)
    table = BarTable(np.arange(6) + 1, np.array([good, *wrong]))
    refused = Refused()
    back, offsets = codec.bars(records(codec.encode_bars("a:B", table)), "a:B", refused)
    assert (len(back), offsets) == (1, [10])
    assert refused == [(11 + i, "price") for i in range(5)]


def test_a_target_that_no_price_could_make_is_refused():
    table = ExampleTable(np.array([1]), np.array([1 + HORIZON]), np.zeros((1, 16)), np.array([[1e100, 1.0, 0.0]]))
    refused = Refused()
    assert len(codec.examples(records(codec.encode_examples("a:B", table, 300)), "a:B", refused, HORIZON)[0]) == 0
    assert refused == [(10, "finite")]


def test_what_the_decoders_refuse_is_not_landed_either_and_what_they_take_is():
    bars = BarTable(np.arange(2) + 1, np.array([[2, 3, 1, 2, 1, 0, 0, 2, 1, 0], [2, 1, 3, 2, 1, 0, 0, 2, 1, 0]], float))
    vectors = VectorTable(np.arange(2) + 1, np.ones((2, 16)))
    targets = np.array([[1.0, 1.0, 0.0], [1e100, 1.0, 0.0]])
    examples = ExampleTable(np.array([1, 2]), np.array([1, 2]) + HORIZON, np.ones((2, 16)), targets)
    late = ExampleTable(np.array([3]), np.array([3]) + 2 * HORIZON, np.ones((1, 16)), targets[:1])
    cases = {
        "bars": (codec.encode_bars("a:B", bars), codec.bars, ()),
        "features": ([*codec.encode_vectors("a:B", vectors), b"{}"], codec.vectors, ()),
        "features_with_target": (
            [*codec.encode_examples("a:B", examples, 300), *codec.encode_examples("a:B", late, 300)],
            codec.examples, (HORIZON,),
        ),
    }  # fmt: skip
    for topic, (values, decode, more) in cases.items():
        by_decoder, by_lander = Refused(), Refused()
        _, taken = decode(records(values, topic), "a:B", by_decoder, *more)
        fields, landed = codec.landable(records(values, topic), "a:B", by_lander, HORIZON)
        assert by_lander == by_decoder != []
        assert landed == taken
        kind = codec.LANDED[topic]
        assert [codec.encode(kind(*row)) for row in fields] == [values[offset - 10] for offset in landed]


def test_a_prediction_is_landed_under_its_own_id_alone():
    good = Prediction("a:B/7/300", "a:B", 7, 300, 1.0, 0.5, 2.0, 1, 2, 3, 4)
    wrong = Prediction("a:B/8/300", "a:B", 7, 300, 1.0, 0.5, 2.0, 1, 2, 3, 4)
    refused = Refused()
    values = [codec.encode(good), codec.encode(wrong)]
    assert codec.landable(records(values, "predictions"), "a:B", refused, HORIZON)[1] == [10]
    assert refused == [(11, "horizon")]
