import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.features import WINDOW
from domain.pipeline import Pipeline, lead
from tests.domain.samples import MINUTE, cut, joined, rows_of, same, walk

HORIZON = 5 * MINUTE


def run(bars, sizes, horizon=HORIZON):
    pipeline = Pipeline.empty(MINUTE, horizon)
    asked, matured, at, i = [], [], 0, 0
    while at < len(bars):
        vectors, examples = pipeline.extend(cut(bars, at, at + sizes[i % len(sizes)]))
        asked.append(vectors)
        matured.append(examples)
        at += sizes[i % len(sizes)]
        i += 1
    return joined(asked), joined(matured), pipeline


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(2, 620),
    h=st.sampled_from([1, 5, 60]),
    hole=st.none() | st.integers(0, 300),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
)
def test_any_cut_of_the_bars_gives_the_rows_of_the_whole(seed, n, h, hole, sizes):
    bars = walk(seed, n)
    if hole is not None:
        bars = cut(bars, np.arange(n) != hole)
    asked, matured, pipeline = run(bars, sizes, h * MINUTE)
    whole_asked, whole_matured = rows_of(bars, h * MINUTE)
    assert same(asked, whole_asked)
    assert same(matured, whole_matured)
    assert len(pipeline.tail) <= lead(h * MINUTE, MINUTE)
    assert pipeline.newest == (bars.ts[-1] if len(bars) else 0)


def test_the_lead_is_just_enough():
    bars = walk(1, 600)
    asked, matured = rows_of(bars)
    for short, complete in ((0, True), (1, False)):
        tail = cut(bars, 400 - lead(HORIZON, MINUTE) + short, 400)
        vectors, examples = Pipeline(MINUTE, HORIZON, tail).extend(cut(bars, 400, 600))
        assert same(vectors, cut(asked, 400 - WINDOW, 999))
        assert same(examples, cut(matured, 400 - WINDOW - 5, 999)) is complete


def test_bars_that_are_not_newer_are_dropped_whether_they_come_in_one_call_or_in_many():
    bars = walk(2, 420)
    asked, matured, pipeline = run(bars, [420])
    order = [*range(300), *range(250, 350), *range(10), *range(300, 420)]  # a topic repeats itself after a crash
    for sizes in ([1], [7], [330], [999]):
        again = run(cut(bars, np.array(order)), sizes)
        assert same(again[0], asked)
        assert same(again[1], matured)
        assert same(again[2].tail, pipeline.tail)


def test_no_bars_change_nothing():
    bars = walk(2, 300)
    _, _, pipeline = run(bars, [300])
    before = pipeline.tail
    vectors, examples = pipeline.extend(cut(bars, 0, 0))
    assert len(vectors) == len(examples) == 0
    assert same(pipeline.tail, before)
    assert len(Pipeline.empty(MINUTE, HORIZON).extend(cut(bars, 0, 0))[0]) == 0
