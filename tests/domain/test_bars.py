from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import (
    AHEAD,
    BAR_COLUMNS,
    CONFIRM,
    MAX_FILL,
    REPEATED,
    TAKEN,
    BarState,
    add_trades,
    close_until,
)
from domain.bars import (
    LATE as TOO_LATE,
)
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


def summed(amounts):
    """Add as exchanges do: whole units of 1e-8, of which Python adds any number without error."""
    return sum(round(amount * 1e8) for amount in amounts) / 10**8


def slow_bars(trades, interval, lateness, end):  # noqa: C901 - one law, told in one piece
    """The same law in plain python: keep every trade of an open bar in a list."""
    waiting, following, newest, close, bars, fates, votes, seen = {}, None, None, None, [], [], [], set()

    def shut():
        nonlocal following, close
        got = waiting.pop(following, [])
        in_order = sorted(got)
        if got:
            close = in_order[-1][2]
        prices = [t[2] for t in got] or [close]
        volume = summed(t[3] for t in got)
        bars.append((
            (following + 1) * interval, in_order[0][2] if got else close, max(prices), min(prices), close, volume,
            summed(t[3] for t in got if t[4] > 0), summed(t[3] for t in got if t[4] < 0),
            summed(t[2] * t[3] for t in got) / volume if got else close, float(len(got)), float(not got),
        ))  # fmt: skip
        following += 1

    for t in zip(*(column.tolist() for column in vars(trades).values()), strict=True):
        number = t[0] // interval
        if following is None:
            following, newest, close = number, number, t[2]
        if number < following:
            fates.append(TOO_LATE)
            continue
        if t[1] in seen:
            fates.append(REPEATED)
            continue
        if number - newest - 1 > MAX_FILL:
            if votes and not -lateness <= t[0] - max(votes) <= MAX_FILL * interval:
                votes = []
            votes.append(t[0])
            if len(votes) < CONFIRM or max(votes) - votes[0] < interval:
                fates.append(AHEAD)
                continue
            while following <= newest + MAX_FILL:
                shut()
            following, newest, close = number, number, t[2]
        votes, newest = [], max(newest, number)
        seen.add(t[1])
        fates.append(TAKEN)
        while (following + 1) * interval + lateness <= t[0]:
            shut()
        waiting.setdefault(number, []).append(t)
    while (following + 1) * interval <= end:
        shut()
    rows = np.array(bars, np.float64).reshape(len(bars), 11)
    return BarTable(np.array([b[0] for b in bars], np.int64), rows[:, 1:]), fates


@pytest.mark.slow
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


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.decimals("0.00000001", "9999.99999999", places=8), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
)
def test_a_bar_sums_its_trades_as_the_exchange_does_whatever_their_order(sizes, seed):
    random = np.random.default_rng(seed)
    prices = [Decimal(int(cents)) / 100 for cents in random.integers(1, 10_000_000, len(sizes))]
    sides = random.choice([-1, 1], len(sizes))
    rows = [
        trade(1, float(p), i + 1, float(q), s) for i, (p, q, s) in enumerate(zip(prices, sizes, sides, strict=True))
    ]
    bars, _, _ = built([rows[i] for i in random.permutation(len(rows))], [trade(70, number=999)])
    volume, bought = sum(sizes), sum((q for q, side in zip(sizes, sides, strict=True) if side > 0), Decimal(0))
    assert bars.values[0, [C["volume"], C["buy_volume"], C["sell_volume"]]].tolist() == [
        float(volume), float(bought), float(volume - bought),
    ]  # fmt: skip
    money = sum(p * q for p, q in zip(prices, sizes, strict=True))
    rounding = len(rows) * 1e-8 / float(volume)  # each trade's money is a whole number of units, too
    assert bars.values[0, C["vwap"]] == pytest.approx(float(money / volume), abs=rounding, rel=1e-12)


def test_a_trade_out_of_order_within_lateness_still_counts():
    bars, refused, _ = built([trade(1, 100.0), trade(61, 110.0, 3), trade(59, 90.0, 2), trade(62, 1.0, 4)])
    assert not refused.any()
    assert bars.values[0, [C["low"], C["close"], C["trades"]]].tolist() == [90.0, 90.0, 2.0]


def test_a_late_trade_is_refused_and_changes_nothing():
    bars, refused, state = built([trade(1), trade(62, number=3)], [trade(59, 1.0, 2)])
    assert refused.tolist() == [TAKEN, TAKEN, TOO_LATE]
    _, _, without = built([trade(1), trade(62, number=3)])
    assert len(bars) == 1
    assert state.ints.tobytes() + state.floats.tobytes() == without.ints.tobytes() + without.floats.tobytes()


def test_a_trade_that_comes_twice_counts_once_wherever_the_calls_are_cut():
    rows = [trade(1, 100.0, 7), trade(2, 101.0, 8), trade(1, 100.0, 7), trade(3, 99.0, 9), trade(2, 101.0, 8)]
    for batches in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
        bars, fates, _ = built(*batches, [trade(70, number=10)])
        assert fates.tolist() == [TAKEN, TAKEN, REPEATED, TAKEN, REPEATED, TAKEN]
        assert bars.values[0, [C["trades"], C["volume"]]].tolist() == [3.0, 3.0]


def test_a_jump_over_max_fill_is_refused_and_a_jump_up_to_it_is_filled():
    reach = (MAX_FILL + 2) * 60
    bars, refused, _ = built([trade(1)], [trade(reach, number=2)], [trade(62, number=3)])
    assert refused.tolist() == [TAKEN, AHEAD, TAKEN]
    assert len(bars) == 1
    bars, refused, _ = built([trade(1), trade(reach - 0.001, number=2)])
    assert not refused.any()
    assert len(bars) == MAX_FILL + 1
    assert bars.values[1:, C["missing"]].all()


def far(k, number=None):
    return trade((MAX_FILL + 100) * 60 + 10 * k, 50.0 + k, number=100 + k if number is None else number)


def test_a_market_that_really_resumes_is_accepted_and_leaves_a_hole_no_longer_filled_than_max_fill():
    bars, refused, state = built([trade(1)], [far(k) for k in range(20)])
    voted = CONFIRM - 1
    assert refused.tolist() == [TAKEN] + [AHEAD] * voted + [TAKEN] * (20 - voted)
    bars = joined([bars, close_until(state, int(START + 10**6 * MINUTE), MINUTE)])
    opened = int(far(voted)[0]) // MINUTE * MINUTE + MINUTE
    steps = np.diff(bars.ts)
    assert (steps != MINUTE).sum() == 1
    hole = int(np.flatnonzero(steps != MINUTE)[0])
    assert (hole + 1, int(bars.ts[hole + 1])) == (1 + MAX_FILL, opened)
    assert bars.values[hole + 1, C["open"]] == 50.0 + voted


def test_one_wrong_clock_never_opens_the_bars_however_often_it_speaks():
    # Between two of its words the honest market goes on, so they are never in a row; or they span no time at all.
    rows = [trade(1)]
    for k in range(50):
        rows += [far(k), trade(2 + k, number=2 + k)]
    bars, refused, _ = built(rows)
    assert refused.tolist() == [TAKEN] + [AHEAD, TAKEN] * 50
    assert len(bars) == 0
    _, refused, _ = built([trade(1), *(far(0) for _ in range(50)), trade(70, number=2)])
    assert refused.tolist() == [TAKEN] + [AHEAD] * 50 + [TAKEN]
    # Clocks that do not agree with each other are no market either.
    wild = [trade((MAX_FILL + 100) * 60 * (k + 1), number=k + 2) for k in range(50)]
    assert built([trade(1), *wild])[1].tolist() == [TAKEN] + [AHEAD] * 50


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    jumps=st.lists(
        st.sampled_from([0.1, 0.4, 1.0, 3.0, -0.5, -2.0, float(MAX_FILL), MAX_FILL + 3.0, 4.0 * MAX_FILL]),
        max_size=120,
    ),
    lateness=st.sampled_from([0, 2 * SECOND]),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_any_cut_of_a_market_with_gaps_gives_the_bars_of_the_slow_law(jumps, lateness, sizes):
    at, rows = 0.0, [trade(0)]
    for k, jump in enumerate(jumps):
        at += jump
        rows += [trade(at + 0.2 * j, 100.0 + k, 10 * k + j) for j in range(3)]
    trades = table([row for row in rows if row[0] > 0])
    expected, fates = slow_bars(trades, SECOND, lateness, 0)
    state, parts, got, i, k = BarState.empty(SECOND, lateness), [], [], 0, 0
    while i < len(trades):
        bars, some = add_trades(state, cut(trades, i, i + sizes[k % len(sizes)]), SECOND, lateness)
        parts.append(bars)
        got += some.tolist()
        i, k = i + sizes[k % len(sizes)], k + 1
    assert got == fates
    assert same(joined(parts), expected)


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
    accepted = (np.array(refused) == TAKEN) & (trades.ts < end)
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


@pytest.mark.parametrize("where", [0.3, 0.99, 1.0])
def test_windows_of_a_batch_that_begin_in_a_gap_give_the_bars_of_one_piece(where):
    """What the backfill does: go on from the newest bar with a trade, over the source's own rows."""
    trades = table([trade(k, number=k + 1) for k in range(5)] + [far(k) for k in range(40)])
    whole = BarState.empty(MINUTE, LATE)
    end = int(trades.ts[-1]) // MINUTE * MINUTE + 2 * MINUTE
    expected = joined([add_trades(whole, trades, MINUTE, LATE)[0], close_until(whole, end, MINUTE)])
    seam = START + int((MAX_FILL + 101) * where) * MINUTE
    first = BarState.empty(MINUTE, LATE)
    done = [add_trades(first, cut(trades, trades.ts < seam), MINUTE, LATE)[0], close_until(first, seam, MINUTE)]
    newest = int(joined(done).ts[joined(done).values[:, C["missing"]] == 0][-1])
    again = BarState.after(newest, float(joined(done).values[0, C["close"]]), MINUTE, LATE)
    add_trades(again, cut(trades, (trades.ts >= newest) & (trades.ts < seam)), MINUTE, LATE)
    close_until(again, seam, MINUTE)
    done += [add_trades(again, cut(trades, trades.ts >= seam), MINUTE, LATE)[0], close_until(again, end, MINUTE)]
    assert same(joined(done), expected)
