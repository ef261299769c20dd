# ruff: noqa: PD011 - the values are those of our tables, not of data frames
import math
import typing

import msgspec
import numpy as np
import pandas as pd
import pytest

from domain.bars import BAR_COLUMNS
from domain.events import NANOS_PER_DAY
from domain.features import FEATURES, MEMORY, TARGETS, WINDOW, ExampleRecord, VectorRecord, examples, vectors
from domain.tables import BarTable, VectorTable
from tests.domain.samples import MINUTE, SECOND, START, cut, joined, log_rms, rows_of, same, walk

HORIZON = 5 * MINUTE
X = {name: i for i, name in enumerate(FEATURES)}
C = {name: i for i, name in enumerate(BAR_COLUMNS)}


def oracle(bars) -> pd.DataFrame:
    """The sixteen features by pandas, over moving windows of the whole series; NaN where a window is not full."""
    frame = pd.DataFrame(bars.values, columns=list(BAR_COLUMNS), index=pd.to_datetime(bars.ts, utc=True))
    r = 1e4 * np.log(frame.close).diff()
    squares = r.pow(2)
    out = pd.DataFrame(index=frame.index)
    for n in (5, 15, 60, 240):
        out[f"lrv{n}"] = np.log(np.sqrt(squares.rolling(n).apply(np.mean, raw=True)) + 0.1)
    log_volume = np.log1p(frame.volume)

    def truncated(series, half_life):
        return series.rolling(WINDOW).apply(lambda w: pd.Series(w).ewm(halflife=half_life).mean().iloc[-1], raw=True)

    out["ew10"], out["ew60"] = (np.log(np.sqrt(truncated(squares, h)) + 0.1) for h in (10, 60))
    spans = 1e4 * (np.log(frame.high) - np.log(frame.low))
    for n in (5, 30):
        out[f"lrng{n}"] = np.log(spans.rolling(n).apply(np.mean, raw=True) + 0.1)
    out["ret1"], out["abs1"] = r, r.abs()
    out["lvol"], out["lvol_d"] = log_volume, log_volume - truncated(log_volume, 60)
    out["miss"] = frame.missing
    hours = out.index.hour + out.index.minute / 60 + out.index.second / 3600
    out["tod_sin"], out["tod_cos"] = np.sin(hours * math.pi / 12), np.cos(hours * math.pi / 12)
    out["weekend"] = (out.index.day_of_week >= 5).astype(float)
    return out[list(FEATURES)]


@pytest.mark.parametrize(
    ("seed", "interval", "start"),
    [(1, MINUTE, START), (2, SECOND, START + 4 * NANOS_PER_DAY - 300 * SECOND), (3, 30 * MINUTE, START)],
)
def test_vectors_are_what_pandas_computes(seed, interval, start):
    bars = walk(seed, 700, interval, start)
    expected = oracle(bars).iloc[WINDOW:]
    got = vectors(bars, 0, interval)
    assert got.ts.tolist() == bars.ts[WINDOW:].tolist()
    for name, i in X.items():
        np.testing.assert_allclose(got.values[:, i], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_week_s_end_is_saturday_and_sunday_utc():
    bars = walk(5, 400, interval=60 * MINUTE)  # a Monday, and 16 days
    got = vectors(bars, 0, 60 * MINUTE)
    days = pd.to_datetime(got.ts, utc=True).day_name()
    assert set(days[got.values[:, X["weekend"]] == 1.0]) == {"Saturday", "Sunday"}
    assert not {"Saturday", "Sunday"} & set(days[got.values[:, X["weekend"]] == 0.0])


def test_the_first_vector_has_a_full_window_behind_it():
    bars = walk(1, MEMORY)
    assert len(vectors(cut(bars, 0, WINDOW), 0, MINUTE)) == 0
    assert vectors(bars, 0, MINUTE).ts.tolist() == [bars.ts[-1]]


def test_only_vectors_after_the_given_time_are_returned():
    bars = walk(1, 300)
    late = vectors(bars, int(bars.ts[270]), MINUTE)
    assert late.ts.tolist() == bars.ts[271:].tolist()
    assert same(late, cut(vectors(bars, 0, MINUTE), 31, 999))


def test_a_vector_is_a_function_of_its_last_memory_bars_and_of_no_other():
    bars = walk(4, 600)
    every = vectors(bars, 0, MINUTE)
    for i in (WINDOW, 300, 451, 599):
        alone = vectors(cut(bars, i - WINDOW, i + 1), 0, MINUTE)
        assert same(alone, cut(every, i - WINDOW, i - WINDOW + 1))


def test_a_window_with_a_hole_in_it_gives_no_vector():
    bars = walk(4, 600)
    holed = cut(bars, np.arange(600) != 280)
    ts = set(vectors(holed, 0, MINUTE).ts.tolist())
    assert ts == set(bars.ts[240:280].tolist()) | set(bars.ts[281 + WINDOW :].tolist())


def plain_targets(bars, i, h):
    close = bars.values[:, C["close"]].tolist()
    returns = [1e4 * math.log(close[k] / close[k - 1]) for k in range(i + 1, i + h + 1)]
    move = close[i + h] - close[i]
    return 1e4 * math.log(close[i + h] / close[i]), (move > 0) if move else math.nan, log_rms(returns)


@pytest.mark.parametrize("h", [1, 5, 240])
def test_targets_are_what_plain_python_computes(h):
    bars = walk(7, 600)
    bars.values[300:310, :4] = 100.0  # a market that stands still
    _, labelled = rows_of(bars, h * MINUTE)
    assert labelled.ts.tolist() == bars.ts[WINDOW : 600 - h].tolist()
    assert (labelled.available - labelled.ts == h * MINUTE).all()
    expected = [plain_targets(bars, i, h) for i in range(WINDOW, 600 - h)]
    np.testing.assert_allclose(labelled.targets, expected, rtol=1e-12, atol=1e-12)
    if h < 10:
        assert np.isnan(labelled.targets[300 - WINDOW, TARGETS.index("direction")])
        assert labelled.targets[300 - WINDOW, TARGETS.index("price_change")] == 0.0


def test_an_example_carries_the_vector_of_its_own_time():
    asked, labelled = rows_of(walk(8, 400))
    assert same(VectorTable(labelled.ts, labelled.values), cut(asked, 0, len(labelled)))


def test_a_hole_in_the_bars_yields_no_label_across_it_and_every_other():
    bars = walk(8, 800)
    asked = vectors(bars, 0, MINUTE)
    holed = cut(bars, np.arange(800) != 500)
    got = examples(holed, asked, 0, HORIZON, MINUTE)
    # A label needs the bars at t, t + 5 and all between; counting rows instead would shift the labels after the hole.
    assert got.ts.tolist() == [t for t in bars.ts[WINDOW:795].tolist() if not bars.ts[495] <= t <= bars.ts[500]]
    whole = examples(bars, asked, 0, HORIZON, MINUTE)
    assert same(got, cut(whole, np.isin(whole.ts, got.ts)))


def test_only_examples_that_matured_after_the_given_time_are_returned():
    bars = walk(8, 400)
    asked = vectors(bars, 0, MINUTE)
    whole = examples(bars, asked, 0, HORIZON, MINUTE)
    seam = int(bars.ts[300])
    late = examples(bars, asked, seam, HORIZON, MINUTE)
    assert late.available[0] == seam + MINUTE
    early = cut(whole, whole.available <= seam)
    assert same(joined([early, late]), whole)


def test_no_bars_and_no_vectors_give_no_rows():
    none = BarTable(np.empty(0, np.int64), np.empty((0, len(BAR_COLUMNS))))
    assert len(vectors(none, 0, MINUTE)) == 0
    assert len(examples(none, vectors(walk(1, 300), 0, MINUTE), 0, HORIZON, MINUTE)) == 0


def test_records_hold_the_features_and_targets_by_name_in_order():
    assert VectorRecord.__struct_fields__ == ("instrument", "ts_event", *FEATURES)
    fields = ("instrument", "ts_event", *FEATURES, "ts_available", "horizon_s", *TARGETS)
    assert ExampleRecord.__struct_fields__ == fields
    assert typing.get_type_hints(ExampleRecord)["direction"] == float | None
    record = VectorRecord("a:B", START, *range(16))
    assert msgspec.json.decode(msgspec.json.encode(record), type=VectorRecord) == record
