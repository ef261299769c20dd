import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import BAR_COLUMNS, MAX_FILL, BarState, add_candles, add_trades, close_until
from domain.tables import BarTable
from tests.domain.samples import MINUTE, SECOND, START, cut, joined, market, same, table

LATE = 2 * SECOND
C = {name: i for i, name in enumerate(BAR_COLUMNS)}


def trade(after_start, price=100.0, number=1, size=1.0, side=1):
    return (START + int(after_start * SECOND), number, price, size, side)


def built(*batches, interval=MINUTE, lateness=LATE):
    state = BarState.empty(interval, lateness)
    done = [add_trades(state, table(batch), interval, lateness) for batch in batches]
    return joined(bars for bars, _ in done), np.concatenate([refused for _, refused in done]), state


def slow_bars(trades, interval, lateness, end):
    """The same law in plain python: keep every trade of an open bar in a list."""
    waiting, following, close, bars, refused = {}, None, None, [], []

    def shut():
        nonlocal following, close
        got = waiting.pop(following, [])
        in_order = sorted(got)
        if got:
            close = in_order[-1][2]
        prices = [t[2] for t in got] or [close]
        volume = sum(t[3] for t in got)
        bars.append((
            (following + 1) * interval, in_order[0][2] if got else close, max(prices), min(prices), close, volume,
            sum(t[3] for t in got if t[4] > 0), sum(t[3] for t in got if t[4] < 0),
            sum(t[2] * t[3] for t in got) / volume if got else close, float(len(got)), float(not got),
        ))  # fmt: skip
        following += 1

    for t in zip(*(column.tolist() for column in vars(trades).values()), strict=True):
        number = t[0] // interval
        if following is None:
            following, close = number, t[2]
        late, far = number < following, t[0] - (following + 1) * interval > MAX_FILL * interval
        refused.append(late or far)
        if refused[-1]:
            continue
        while (following + 1) * interval + lateness <= t[0]:
            shut()
        waiting.setdefault(number, []).append(t)
    while (following + 1) * interval <= end:
        shut()
    rows = np.array(bars, np.float64).reshape(len(bars), 11)
    return BarTable(np.array([b[0] for b in bars], np.int64), rows[:, 1:]), refused


def test_a_bar_closes_on_the_first_trade_past_its_end_plus_lateness():
    first, just_before, past = trade(1), trade(61.999999, number=2), trade(62, number=3)
    assert len(built([first], [just_before])[0]) == 0
    bars, _, _ = built([first], [just_before], [past])
    assert bars.ts.tolist() == [START + MINUTE]
    assert bars.values[0, C["trades"]] == 1


def test_a_trade_at_the_end_of_a_bar_belongs_to_the_next():
    bars, _, _ = built([trade(1, 100.0), trade(60, 200.0, 2), trade(200, 1.0, 3)])
    assert bars.values[:2, C["close"]].tolist() == [100.0, 200.0]


def test_empty_intervals_are_filled_forward_and_flagged():
    bars, _, _ = built([trade(1, 100.0), trade(5, 101.0, 2), trade(242, 99.0, 3)])
    assert bars.ts.tolist() == [START + k * MINUTE for k in (1, 2, 3, 4)]
    assert bars.values[:, C["missing"]].tolist() == [0.0, 1.0, 1.0, 1.0]
    for row in bars.values[1:]:
        assert row[[C["open"], C["high"], C["low"], C["close"], C["vwap"]]].tolist() == [101.0] * 5
        assert row[[C["volume"], C["buy_volume"], C["sell_volume"], C["trades"]]].tolist() == [0.0] * 4


def test_open_and_close_are_the_exchange_s_first_and_last_trade_in_any_order_of_arrival():
    rows = [trade(10, 100.0, 1), trade(10, 101.0, 2), trade(30, 105.0, 3), trade(30, 95.0, 4)]
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(rows))
        bars, _, _ = built([rows[i] for i in order], [trade(70, number=9)])
        assert bars.values[0, :4].tolist() == [100.0, 105.0, 95.0, 95.0]


def test_a_trade_out_of_order_within_lateness_still_counts():
    bars, refused, _ = built([trade(1, 100.0), trade(61, 110.0, 3), trade(59, 90.0, 2), trade(62, 1.0, 4)])
    assert not refused.any()
    assert bars.values[0, [C["low"], C["close"], C["trades"]]].tolist() == [90.0, 90.0, 2.0]


def test_a_late_trade_is_refused_and_changes_nothing():
    bars, refused, state = built([trade(1), trade(62, number=3)], [trade(59, 1.0, 2)])
    assert refused.tolist() == [False, False, True]
    _, _, without = built([trade(1), trade(62, number=3)])
    assert len(bars) == 1
    assert state.ints.tobytes() + state.floats.tobytes() == without.ints.tobytes() + without.floats.tobytes()


def test_a_jump_over_max_fill_is_refused_and_a_jump_up_to_it_is_filled():
    reach = (MAX_FILL + 1) * 60
    bars, refused, _ = built([trade(1)], [trade(reach + 0.001, number=2)], [trade(62, number=3)])
    assert refused.tolist() == [False, True, False]
    assert len(bars) == 1
    bars, refused, _ = built([trade(1), trade(reach, number=2)])
    assert not refused.any()
    assert len(bars) == MAX_FILL
    assert bars.values[1:, C["missing"]].all()


@pytest.mark.parametrize("lateness", [0, LATE, 3 * MINUTE])
def test_a_batch_of_jumps_as_long_as_allowed_closes_just_the_bars_it_made_room_for(lateness):
    # Each jump is measured from the open bar, not from the newest trade: room counted by the latter is too small.
    reach = (MAX_FILL + 1) * 60
    rows = [trade(0), trade(62.5, number=2)]
    rows += [trade(62.5 + k * reach - 33, number=2 + k) for k in (1, 2, 3)]
    expected, refused = slow_bars(table(rows), MINUTE, lateness, 0)
    bars, bad, _ = built(rows, lateness=lateness)
    assert bad.tolist() == refused
    assert same(bars, expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 120),
    lateness=st.sampled_from([0, SECOND // 2, 2 * SECOND, 7 * SECOND]),
    disorder=st.sampled_from([1, 3]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_any_cut_of_the_trades_into_calls_gives_the_bars_of_the_slow_law(seed, n, lateness, disorder, sizes):
    # With disorder beyond the lateness some trades are refused: always the same ones.
    trades = market(seed, n, SECOND, lateness * disorder)
    end = int(trades.ts.max()) // SECOND * SECOND
    expected, refused = slow_bars(trades, SECOND, lateness, end)
    state, parts, bad, at, i = BarState.empty(SECOND, lateness), [], [], 0, 0
    while at < n:
        bars, no = add_trades(state, cut(trades, at, at + sizes[i % len(sizes)]), SECOND, lateness)
        parts.append(bars)
        bad += no.tolist()
        at += sizes[i % len(sizes)]
        i += 1
    parts.append(close_until(state, end, SECOND))
    bars = joined(parts)
    assert bad == refused
    assert same(bars, expected)
    if disorder == 1:
        assert not any(refused)
    # Nothing is lost and nothing doubled: what is in the bars is what was accepted and is not still open.
    accepted = ~np.array(refused) & (trades.ts < end)
    assert bars.values[:, C["trades"]].sum() == accepted.sum()
    assert bars.values[:, C["volume"]].sum() == pytest.approx(trades.size[accepted].sum(), rel=1e-12)
    sided = accepted & (trades.side != 0)
    taken = bars.values[:, C["buy_volume"]].sum() + bars.values[:, C["sell_volume"]].sum()
    assert taken == pytest.approx(trades.size[sided].sum(), rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.95))
def test_a_seam_between_two_builders_leaves_no_trace(seed, share):
    trades = market(seed, 150)
    end = int(trades.ts.max()) // SECOND * SECOND + SECOND
    whole = BarState.empty(SECOND, LATE)
    expected = joined([add_trades(whole, trades, SECOND, LATE)[0], close_until(whole, end, SECOND)])
    seam = int(expected.ts[int(share * (len(expected) - 1))])
    first = BarState.empty(SECOND, LATE)
    before = joined(
        [add_trades(first, cut(trades, trades.ts < seam), SECOND, LATE)[0], close_until(first, seam, SECOND)]
    )
    second = BarState.after(seam, float(before.values[-1, C["close"]]), SECOND, LATE)
    parts = [add_trades(second, cut(trades, trades.ts >= seam), SECOND, LATE)[0], close_until(second, end, SECOND)]
    assert same(joined([before, *parts]), expected)
    assert second.ints[0] == whole.ints[0]
    assert second.floats[0] == whole.floats[0]


def test_close_until_closes_what_is_open_and_fills_to_the_end_without_a_trade():
    _, _, state = built([trade(1, 100.0), trade(61, 103.0, 2)])
    assert len(close_until(state, START + MINUTE - 1, MINUTE)) == 0
    bars = close_until(state, START + 4 * MINUTE + 1, MINUTE)
    assert bars.values[:, C["close"]].tolist() == [100.0, 103.0, 103.0, 103.0]
    assert bars.values[:, C["missing"]].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert len(close_until(state, START + 4 * MINUTE, MINUTE)) == 0
    assert len(close_until(BarState.empty(MINUTE, LATE), START, MINUTE)) == 0


def test_a_state_knows_whether_it_has_started_and_its_copy_is_its_own():
    state = BarState.empty(MINUTE, LATE)
    assert not state.started
    copy = state.copy()
    add_trades(state, table([trade(1)]), MINUTE, LATE)
    assert state.started
    assert not copy.started


def candle(minute, close, missing=0.0):
    return START + minute * MINUTE, [close, close + 1, close - 1, close, 2.0, 0.0, 0.0, 0.0, 0.0, missing]


def candles(*rows):
    return BarTable(np.array([r[0] for r in rows], np.int64), np.array([r[1] for r in rows]).reshape(len(rows), 10))


def test_gaps_between_candles_are_filled_forward_and_flagged_and_candles_pass_as_they_are():
    given_ = candles(candle(1, 10.0), candle(2, 11.0), candle(5, 12.0))
    bars, refused = add_candles(BarState.empty(MINUTE, 0), given_, MINUTE)
    assert not refused.any()
    assert bars.ts.tolist() == [START + k * MINUTE for k in range(1, 6)]
    assert bars.values[:, C["missing"]].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert bars.values[2:4, C["close"]].tolist() == [11.0, 11.0]
    assert bars.values[[0, 1, 4]].tolist() == given_.values.tolist()


def test_candles_old_doubled_off_the_grid_or_far_ahead_are_refused_one_by_one():
    off = (START + 4 * MINUTE + 1, candle(4, 1.0)[1])
    far = candle(3 + MAX_FILL + 1, 1.0)
    given_ = candles(candle(2, 10.0), candle(1, 1.0), candle(2, 1.0), off, far, candle(3, 11.0))
    bars, refused = add_candles(BarState.empty(MINUTE, 0), given_, MINUTE)
    assert refused.tolist() == [False, True, True, True, True, False]
    assert bars.values[:, C["close"]].tolist() == [10.0, 11.0]
    _, refused = add_candles(
        BarState.after(START + 2 * MINUTE, 10.0, MINUTE, 0), candles(candle(3 + MAX_FILL, 1.0)), MINUTE
    )
    assert not refused.any()


@settings(deadline=None, max_examples=30)
@given(minutes=st.lists(st.integers(-3, 60), max_size=40), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_cut_of_the_candles_into_calls_gives_the_same_bars(minutes, sizes):
    every = candles(*(candle(m, 100.0 + i) for i, m in enumerate(minutes)))
    whole, refused = add_candles(BarState.empty(MINUTE, 0), every, MINUTE)
    state, parts, bad, at, i = BarState.empty(MINUTE, 0), [whole.__class__(whole.ts[:0], whole.values[:0])], [], 0, 0
    while at < len(every):
        bars, no = add_candles(state, cut(every, at, at + sizes[i % len(sizes)]), MINUTE)
        parts.append(bars)
        bad += no.tolist()
        at += sizes[i % len(sizes)]
        i += 1
    assert bad == refused.tolist()
    assert same(joined(parts), whole)
    assert (np.diff(whole.ts) == MINUTE).all()
    newest = [m for i, m in enumerate(minutes) if m > max(minutes[:i], default=-99)]
    assert (~refused).sum() == len(newest)
