"""Law 1: any split of history into batch prefix and streamed suffix gives bit-identical rows and models."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import MAX_FILL
from domain.config import Model
from domain.tables import BarTable, TradeTable
from tests.domain.samples import LOGISTIC, MINUTE, RLS, SECOND, cut, market, same, walk
from tests.laws.world import Setting, batch, in_one_piece, stream

FOREST = Model(
    name="forest", kind="river", targets=("volatility",), estimator="forest.ARFRegressor(n_models=2, seed=1)"
)
sizes = st.lists(st.integers(1, 200), min_size=1, max_size=6)


def prove(setting, events, windows, sizes, saves):
    """Compare one piece with prefix and suffix, bit for bit."""
    end = int(events.ts.max()) // setting.interval * setting.interval + setting.interval * isinstance(
        events, TradeTable
    )
    seam = windows[-1]
    expected = in_one_piece(setting, events, seam, end)
    told = batch(setting, events, windows)
    rest = cut(events, events.ts >= seam if isinstance(events, TradeTable) else events.ts > seam)
    stream(setting, told, rest, end, sizes, saves)
    assert same(told.bars, expected.bars)
    assert same(told.vectors, expected.vectors)
    assert same(told.examples, expected.examples)
    assert told.served == expected.served
    assert told.line.scores() == expected.line.scores()
    assert told.line.digest() == expected.line.digest()
    return told


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(30, 1_600),
    lateness=st.sampled_from([0, SECOND // 2, 2 * SECOND, 5 * SECOND]),
    horizon=st.sampled_from([1, 5, 30]),
    per_bar=st.sampled_from([0.7, 2.0, 4.0]),
    shares=st.lists(st.floats(0.02, 0.95), min_size=1, max_size=4),
    sizes=sizes,
    saves=st.sampled_from([0, 1, 7]),
)
def test_any_split_and_any_chunking_of_trades_give_the_same_rows_and_models(
    seed, n, lateness, horizon, per_bar, shares, sizes, saves
):
    setting = Setting(lateness=lateness, horizon=horizon * SECOND)
    trades = market(seed, n, SECOND, lateness, per_bar)
    first, last = int(trades.ts.min()) // SECOND + 1, int(trades.ts.max()) // SECOND
    windows = sorted({(first + int(share * (last - first))) * SECOND for share in shares})
    if len(sizes) * 200 < n // 10:
        sizes = [*sizes, 200]
    prove(setting, trades, windows, sizes, saves if n < 400 else 7 * bool(saves))


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(10, 900),
    present=st.floats(0.5, 1.0),
    shares=st.lists(st.floats(0.02, 0.95), min_size=1, max_size=4),
    sizes=sizes,
    saves=st.sampled_from([0, 5]),
)
def test_any_split_and_any_chunking_of_candles_give_the_same_rows_and_models(seed, n, present, shares, sizes, saves):
    candles = walk(seed, n, missing=0.0)
    kept = np.random.default_rng(seed).random(n) < present
    kept[[0, -1]] = True
    candles = cut(candles, kept)
    windows = sorted({int(candles.ts[0]) + int(share * (n - 1)) * MINUTE for share in shares})
    setting = Setting(MINUTE, 0, 5 * MINUTE, (RLS, LOGISTIC))
    prove(setting, candles, windows, sizes, saves)


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**32),
    at=st.floats(0.2, 0.8),
    length=st.integers(MAX_FILL // 2, 3 * MAX_FILL),
    shares=st.lists(st.floats(0.02, 0.95), min_size=1, max_size=4),
    sizes=sizes,
    saves=st.sampled_from([0, 7]),
)
def test_a_gap_too_long_to_be_filled_gives_the_same_hole_in_batch_and_stream(seed, at, length, shares, sizes, saves):
    trades = market(seed, 2_400)
    later = trades.ts >= int(np.quantile(trades.ts, at))
    trades.ts[later] += length * SECOND
    trades = cut(trades, np.argsort(later, kind="stable"))  # nothing is out of order across the gap
    first, last = int(trades.ts.min()) // SECOND + 1, int(trades.ts.max()) // SECOND
    windows = sorted({(first + int(share * (last - first))) * SECOND for share in shares})
    told = prove(Setting(gaps=True, fleet=(RLS,)), trades, windows, sizes, saves)
    holes = int((np.diff(told.bars.ts) != SECOND).sum())
    assert holes == (length > MAX_FILL + 20) or abs(length - MAX_FILL) <= 20


def test_a_forest_with_a_seed_replays_too():
    trades = market(7, 1_100)
    middle = int(np.median(trades.ts)) // SECOND * SECOND
    told = prove(Setting(fleet=(FOREST, RLS)), trades, [middle], [50], 6)
    assert told.line.n_learned > 300


def test_the_law_can_fail_a_seam_that_forgets_its_lead_gives_other_rows():
    trades = market(8, 1_500)
    middle = int(np.median(trades.ts)) // SECOND * SECOND
    setting, end = Setting(), int(trades.ts.max())
    told = batch(setting, trades, [middle])
    told.bars = cut(told.bars, len(told.bars) - 100, len(told.bars))
    stream(setting, told, cut(trades, trades.ts >= middle), end, [50], 0)
    expected = in_one_piece(setting, trades, middle, end)
    assert len(told.vectors) < len(expected.vectors)
    assert told.line.digest() != expected.line.digest()


def recorded(shelf, name):
    table = pq.read_table(shelf(name))
    symbol = np.array(table["symbol"].to_pylist())
    return table, symbol, table["ts"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()


@pytest.mark.parametrize("symbol", ["BTC-USD", "ETH-USD"])
def test_a_real_week_of_candles_gives_the_same_rows_and_models(shelf, symbol):
    table, symbols, opens = recorded(shelf, "candles_1m_bitfinex_small_201912w1.parquet")
    of = symbols == symbol
    values = np.zeros((of.sum(), 10))
    for i, name in enumerate(("open", "high", "low", "close", "volume")):
        values[:, i] = table[name].to_numpy()[of]
    values[:, 7] = values[:, 3]
    candles = BarTable(opens[of] + MINUTE, values)
    assert (np.diff(candles.ts) > MINUTE).any()  # minutes without a trade are absent
    days = [int(candles.ts[0]) // (1_440 * MINUTE) * 1_440 * MINUTE + k * 1_440 * MINUTE for k in (1, 2, 3)]
    told = prove(Setting(MINUTE, 0, 5 * MINUTE), candles, [*days, days[-1] + 77 * MINUTE], [1, 60, 700], 5)
    assert len(told.bars) == (candles.ts[-1] - candles.ts[0]) // MINUTE + 1
    assert len(told.vectors) == len(told.bars) - 240
    assert len(told.examples) == len(told.vectors) - 5
    assert told.line.n_learned == len(told.examples)
    scores = told.line.scores()["volatility"]
    assert scores["rls"]["loss"] < min(scores["mean"]["loss"], scores["persistence"]["loss"])


@pytest.mark.parametrize("symbol", ["BTC-USDT", "BTC-USD-PERP", "ETH-USDT"])
def test_real_trades_across_midnight_give_the_same_rows_and_models(shelf, symbol):
    table, symbols, ts = recorded(shelf, "trades_binance_20240809.parquet")
    of = symbols == symbol
    side = np.array([{"buy": 1, "sell": -1}.get(s, 0) for s in np.array(table["side"].to_pylist())[of]], np.int8)
    columns = [table[name].to_numpy()[of] for name in ("trade_id", "price", "size")]
    trades = TradeTable(ts[of], columns[0].astype(np.int64), *(np.array(c, np.float64) for c in columns[1:]), side)
    midnight = int(trades.ts[0]) // (1_440 * MINUTE) * 1_440 * MINUTE + 1_440 * MINUTE
    told = prove(Setting(horizon=30 * SECOND), trades, [midnight], [1, 7, 300], 40)
    assert told.line.n_learned == len(told.examples) > 300
