"""The simulated market: the same however it is read, realistic, and worth learning from."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY as DAY
from domain.events import NANOS_PER_MINUTE as MINUTE
from markets.simulated import Simulated
from markets.source import Resume
from tests.markets.samples import drained

BTC, ETH = "simulated:BTC-USD", "simulated:ETH-USD"
OPENS = 20_096 * DAY


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC, ETH], OPENS, 7)


def read(market, instrument, start, end):
    tables = list(market.history(instrument, start, end))
    names = ("ts", "trade_id", "price", "size", "side")
    return {name: np.concatenate([getattr(table, name) for table in tables] or [np.empty(0)]) for name in names}


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 3 * DAY), max_size=6), back=st.booleans())
def test_any_chunking_of_a_window_gives_the_same_trades(market, cuts, back):
    start, end = OPENS - 2 * DAY - 3 * DAY // 7, OPENS + DAY // 3
    edges = sorted({start, end, *(start + cut % (end - start) for cut in cuts)})
    windows = list(pairwise(edges))
    fresh = Simulated(7, [ETH], OPENS, 1)  # another market object, with other instruments and history
    parts = {window: read(fresh, ETH, *window) for window in (reversed(windows) if back else windows)}
    joined = {name: np.concatenate([parts[w][name] for w in windows]) for name in parts[windows[0]]}
    assert same(joined, read(market, ETH, start, end))


def test_history_windows_include_their_start_and_exclude_their_end(market):
    trades = read(market, BTC, OPENS, OPENS + MINUTE)
    at = int(trades["ts"][3])
    assert read(market, BTC, at, at + 1)["ts"].tolist() == [at]
    assert at not in read(market, BTC, OPENS, at)["ts"]
    assert list(market.history(BTC, OPENS, OPENS)) == []


def test_history_tables_keep_to_one_utc_day(market):
    days = [set((table.ts // DAY).tolist()) for table in market.history(BTC, OPENS - 2 * DAY - 5, OPENS + 5)]
    assert all(len(day) == 1 for day in days)


def test_ids_are_contiguous_and_times_in_order_across_days(market):
    for instrument in (BTC, ETH):
        trades = read(market, instrument, OPENS - 5 * DAY, OPENS)
        assert (np.diff(trades["trade_id"]) == 1).all()
        assert (np.diff(trades["ts"]) >= 0).all()


def test_the_feed_goes_on_where_history_ends(market):
    feed = market.open({}, 0)
    events = [event for _ in range(40) for event in feed.poll(5_000, 0)]
    assert events[0].ts_event >= OPENS
    assert events[-1].ts_event > OPENS + DAY
    assert not feed.done
    for instrument in (BTC, ETH):
        mine = [event for event in events if event.instrument == instrument]
        expected = read(market, instrument, OPENS, mine[-1].ts_event + 1)
        n = len(mine)
        assert [event.trade_id for event in mine] == expected["trade_id"][:n].tolist()
        assert [event.price for event in mine] == expected["price"][:n].tolist()


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(0, 8_999), portion=st.integers(1, 3_000))
def test_a_resumed_feed_gives_exactly_the_rest(market, stop, portion):
    everything = market.open({}, 0).poll(9_000, 0)
    resume = {event.instrument: Resume(event.ts_event, event.trade_id) for event in everything[: stop + 1]}
    feed, rest = market.open(resume, 0), []
    while len(rest) < 9_000 - stop - 1:
        rest += feed.poll(portion, 0)
    assert rest[: 9_000 - stop - 1] == everything[stop + 1 :]


@pytest.mark.process
@pytest.mark.parametrize("plain", [False, True])
def test_another_process_simulates_the_same_market(market, plain):
    """Nothing depends on the process, nor on what its processor has beyond the baseline that NumPy was built for."""
    trades = read(market, BTC, OPENS - DAY, OPENS)
    mine = sha256(b"".join(trades[name].tobytes() for name in ("ts", "price", "size", "side"))).hexdigest()
    code = (
        "from hashlib import sha256; from markets.simulated import Simulated;"
        "from numpy._core._multiarray_umath import __cpu_features__ as has;"
        f"[t] = Simulated(7, ['{BTC}'], {OPENS}, 1).history('{BTC}', {OPENS - DAY}, {OPENS});"
        "print(sha256(b''.join(c.tobytes() for c in (t.ts, t.price, t.size, t.side))).hexdigest(),"
        f"any(has[name] for name in {__cpu_dispatch__}))"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    if plain:
        environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(__cpu_dispatch__)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True,
                         text=True, timeout=60, check=True)  # fmt: skip
    digest, vectorised = run.stdout.split()
    assert digest == mine
    assert not (plain and vectorised == "True")


@pytest.mark.slow
def test_seeds_and_instruments_differ():
    window = (OPENS, OPENS + 60 * MINUTE)
    prices = [
        read(Simulated(seed, [name], OPENS, 1), name, *window)["price"][:50].tolist()
        for seed, name in ((7, BTC), (8, BTC), (7, "other:BTC-USD"), (-7, BTC))
    ]
    assert all(one != other for k, one in enumerate(prices) for other in prices[k + 1 :])


@pytest.mark.parametrize(("instrument", "low", "high"), [(BTC, 40_000, 90_000), (ETH, 1_800, 4_500)])
def test_prices_sizes_and_activity_are_realistic(market, instrument, low, high):
    trades = read(market, instrument, OPENS - 7 * DAY, OPENS)
    assert low < trades["price"].min() < trades["price"].max() < high
    assert (trades["size"] > 0).all()
    assert set(trades["side"].tolist()) == {1, -1}
    assert 20 <= len(trades["ts"]) / (7 * 1_440) <= 60
    minutes = np.unique(trades["ts"] // MINUTE)
    assert 0.002 < 1 - len(minutes) / (7 * 1_440) < 0.15  # some minutes have no trade
    ticks = trades["price"] * (10 if instrument == BTC else 100)
    assert np.abs(ticks - np.rint(ticks)).max() < 1e-6
    assert np.abs(np.diff(np.log(trades["price"]))).max() < 0.03


@pytest.mark.slow
def test_prices_join_at_midnight(market):
    trades = read(market, BTC, OPENS - 30 * DAY, OPENS)
    midnight = np.flatnonzero(np.diff(trades["ts"] // DAY))
    steps = np.abs(np.diff(np.log(trades["price"])))
    assert np.median(steps[midnight]) < 20 * np.median(steps)
    assert steps[midnight].max() < 0.01


def test_an_unknown_base_asset_has_a_price_of_its_own():
    market = Simulated(7, ["simulated:DOGE-USD", "simulated:SOL-USD"], OPENS, 1)
    prices = [read(market, name, OPENS - DAY, OPENS)["price"].mean() for name in market.instruments]
    assert all(price > 0.05 for price in prices)
    assert prices[0] != prices[1]


def closes(market, instrument, days):
    trades = read(market, instrument, OPENS - days * DAY, OPENS)
    minute = trades["ts"] // MINUTE - (OPENS - days * DAY) // MINUTE
    last = np.searchsorted(minute, np.arange(days * 1_440), side="right") - 1
    return trades["price"][np.maximum(last, 0)]


@pytest.mark.parametrize("instrument", [BTC, ETH])
def test_volatility_can_be_forecast_from_the_past_and_returns_hardly(market, instrument):
    returns = 1e4 * np.diff(np.log(closes(market, instrument, 20)))
    five = returns[: len(returns) // 5 * 5].reshape(-1, 5)
    volatility = np.log(np.sqrt((five**2).mean(axis=1)) + 0.1)

    def memory(lag):
        return np.corrcoef(volatility[lag:], volatility[:-lag])[0, 1]

    assert memory(1) > 0.5
    assert memory(12) > 0.2  # an hour
    assert abs(np.corrcoef(returns[1:], returns[:-1])[0, 1]) < 0.1
    assert ((returns / returns.std()) ** 4).mean() > 5  # calm and storm


def test_the_taker_pays_the_spread(market):
    """Trades that turn from buy to sell fall, and the reverse: the bounce between bid and ask."""
    trades = read(market, BTC, OPENS - DAY, OPENS)
    steps, turns = np.diff(np.log(trades["price"])), np.diff(trades["side"])
    assert steps[turns > 0].mean() > 2e-5
    assert steps[turns < 0].mean() < -2e-5


def test_the_declared_span_ends_at_the_opening(market):
    assert market.span(BTC) == (OPENS - 7 * DAY, OPENS)
    assert (market.kind, market.interval, market.simulated) == ("trades", None, True)


def test_the_market_began_in_1970_and_ends_in_2149():
    market = Simulated(7, [BTC], DAY, 30)
    assert market.span(BTC) == (0, DAY)
    assert read(market, BTC, -5 * DAY, DAY)["trade_id"][0] == 1
    assert list(market.history(BTC, 70_000 * DAY, 70_001 * DAY)) == []
    end = Simulated(7, [BTC], 65_534 * DAY, 1)
    assert len(drained(end.open({}, 0), 100_000)) == 57_600
    for day in (0, 65_535, 100_000):
        with pytest.raises(UsageError, match=r"set market\.opens between"):
            Simulated(7, [BTC], day * DAY, 1)
