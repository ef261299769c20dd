"""The box's books: whole steps, exact candles, every trade found by time, by id and by cursor."""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import UsageError
from domain.events import NANOS_PER_DAY as DAY
from domain.events import NANOS_PER_MINUTE as MINUTE
from domain.tables import TradeTable
from markets.box.candles import CandleBook, candles_of, coarser, filled, opening
from markets.box.listing import listing_of, listings_of
from markets.box.tape import UNIT, Tape, book
from markets.recorded import Recorded
from markets.simulated import Simulated
from markets.symbols import QUOTES, dashed
from tests.markets.box import BTC, OPENS
from tests.markets.samples import START, candles, trades, write

step = Decimal(1) / UNIT
prices = st.integers(1, 10**15).map(lambda steps: steps * step)
# Forty of the largest sizes at the largest price are still what an exchange can book: 10**10 at most.
sizes = st.integers(1, 25 * 10**8).map(lambda steps: steps * step)
drawn = st.lists(
    st.tuples(st.integers(0, 20 * MINUTE), prices, sizes, st.sampled_from([1, -1])), min_size=1, max_size=40
)


def table_of(rows):
    """Return rows of (time, price, size, side) as a table, in order of time."""
    rows = sorted(rows, key=lambda row: row[0])
    ts, price, size, side = zip(*rows, strict=True)
    return rows, TradeTable(
        np.array(ts, np.int64),
        np.arange(7, 7 + len(rows)),
        np.array(price, np.float64),
        np.array(size, np.float64),
        np.array(side, np.int8),
    )


@given(rows=drawn)
def test_booked_trades_are_the_decimals_they_came_from_and_their_product_is_rounded_down(rows):
    rows, table = table_of(rows)
    booked = book([table])
    assert [steps * step for steps in booked.price.tolist()] == [row[1] for row in rows]
    assert [steps * step for steps in booked.size.tolist()] == [row[2] for row in rows]
    assert [steps * step for steps in booked.quote.tolist()] == [
        (row[1] * row[2]).quantize(step, rounding=ROUND_DOWN) for row in rows
    ]


@given(rows=drawn)
def test_cursors_are_unique_in_order_and_never_before_their_time(rows):
    booked = book([table_of(rows)[1]])
    assert (np.diff(booked.cursor) > 0).all()
    late = booked.cursor - booked.ts
    assert ((late >= 0) & (late < len(booked))).all()


@given(rows=drawn, minutes=st.sampled_from([1, 3, 5]))
def test_a_candle_is_the_exact_sum_of_its_trades(rows, minutes):
    rows, table = table_of(rows)
    booked, interval = book([table]), minutes * MINUTE
    made = candles_of(booked, interval)
    starts = sorted({row[0] // interval * interval for row in rows})
    assert made.start.tolist() == starts
    for k, start in enumerate(starts):
        mine = [n for n, row in enumerate(rows) if start <= row[0] < start + interval]
        bought = [n for n in mine if rows[n][3] == 1]
        price, size, quote = booked.price.tolist(), booked.size.tolist(), booked.quote.tolist()
        assert [getattr(made, name)[k] for name in ("open", "high", "low", "close", "count")] == [
            price[mine[0]], max(price[n] for n in mine), min(price[n] for n in mine), price[mine[-1]], len(mine),
        ]  # fmt: skip
        assert (made.volume[k], made.quote[k]) == (sum(size[n] for n in mine), sum(quote[n] for n in mine))
        assert (made.taker_volume[k], made.taker_quote[k]) == (
            sum(size[n] for n in bought),
            sum(quote[n] for n in bought),
        )
        assert (made.first_id[k], made.last_id[k]) == (7 + mine[0], 7 + mine[-1])


@given(rows=drawn)
def test_long_candles_are_the_same_from_minutes_as_from_trades(rows):
    booked = book([table_of(rows)[1]])
    direct, through = candles_of(booked, 5 * MINUTE), coarser(candles_of(booked, MINUTE), 5 * MINUTE)
    assert all(
        np.array_equal(one, other) for one, other in zip(vars(direct).values(), vars(through).values(), strict=True)
    )


@given(rows=drawn)
def test_a_minute_without_a_trade_is_flat_at_the_close_before(rows):
    made = candles_of(book([table_of(rows)[1]]), MINUTE)
    full = filled(made, MINUTE, 0, 25 * MINUTE, 42)
    assert full.start.tolist() == [k * MINUTE for k in range(26)]
    close = 42
    for k, start in enumerate(full.start.tolist()):
        had = np.flatnonzero(made.start == start)
        if len(had):
            close = made.close[had[0]]
            assert full.volume[k] == made.volume[had[0]]
        else:
            assert {full.open[k], full.high[k], full.low[k], full.close[k]} == {close}
            assert full.volume[k] == full.quote[k] == full.count[k] == full.taker_volume[k] == 0


def test_a_week_begins_on_monday():
    assert opening(OPENS, 7 * DAY) == 20_094 * DAY  # 2025-01-08 was a Wednesday


@pytest.fixture(scope="module")
def tape():
    return Tape(Simulated(7, [BTC], OPENS, 3))


@pytest.fixture(scope="module")
def everything(tape):
    return book(
        [
            table
            for day in range(3)
            for table in tape._source.history(BTC, OPENS - (3 - day) * DAY, OPENS - (2 - day) * DAY)
        ]
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_page_is_the_very_slice_of_all_trades(tape, everything, data):
    n = data.draw(st.integers(1, 1_000))
    until = data.draw(st.integers(OPENS - 3 * DAY, OPENS - 1))
    known = everything.until(until)
    at = data.draw(st.integers(-5, len(everything) + 5))
    first = int(everything.trade_id[0])
    found = tape.from_id(BTC, first + at, until, n).trade_id.tolist()
    assert found == known.trade_id[max(at, 0) :][:n].tolist()
    start = data.draw(st.integers(OPENS - 3 * DAY, OPENS))
    assert tape.first(BTC, start, until, n).trade_id.tolist() == known.since(start).trade_id[:n].tolist()
    assert tape.newest(BTC, until, n).trade_id.tolist() == known.trade_id[-n:].tolist()
    place = data.draw(st.integers(0, len(everything) - 1))
    cursor = int(everything.cursor[place]) - data.draw(st.integers(0, 1))
    later = known.trade_id[known.cursor > cursor]
    assert tape.after(BTC, cursor, until, n).trade_id.tolist() == later[:n].tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_candles_of_any_window_are_those_of_its_trades_and_know_nothing_later_than_the_clock(tape, everything, data):
    interval = data.draw(st.sampled_from([MINUTE // 60, MINUTE, 15 * MINUTE, 240 * MINUTE, DAY]))
    now = data.draw(st.integers(OPENS - 2 * DAY, OPENS - 1))
    start = data.draw(st.integers(OPENS - 3 * DAY, now))
    end = start + interval * data.draw(st.integers(0, 60))
    got = CandleBook(tape).between(BTC, interval, start, end, now)
    known = candles_of(everything.until(now), interval)
    low, high = opening(start - 1, interval) + interval, opening(min(end, now), interval)
    low = max(low, opening(int(everything.ts[0]), interval))  # the first trade of all begins the first candle
    assert got.start.tolist() == list(range(low, high + 1, interval))
    for k in np.flatnonzero(got.count).tolist():
        [place] = np.flatnonzero(known.start == got.start[k])
        assert all(getattr(got, name)[k] == column[place] for name, column in vars(known).items())
    assert got.count.sum() == known.count[(known.start >= low) & (known.start <= high)].sum()
    for k in np.flatnonzero(got.count == 0).tolist():
        assert got.close[k] == everything.until(int(got.start[k])).price[-1]


def test_pages_cross_days_without_trades(tmp_path):
    first, later = trades(3), trades(3, first_id=4, start=START + 5 * DAY)
    path = write(tmp_path / "t.parquet", {name: first[name] + later[name] for name in first})
    tape = Tape(Recorded([path]))
    until = START + 9 * DAY
    for k in range(1, 7):
        assert tape.from_id("recorded:BTC-USD", k, until, 9).trade_id.tolist() == list(range(k, 7))
    assert tape.newest("recorded:BTC-USD", until, 4).trade_id.tolist() == [3, 4, 5, 6]
    assert len(tape.from_id("recorded:BTC-USD", 7, until, 9)) == 0


def test_what_turns_over_more_than_64_bits_hold_is_refused():
    huge = TradeTable(*(np.array([1]), np.array([1]), np.array([1e6]), np.array([1e6]), np.array([1], np.int8)))
    with pytest.raises(UsageError, match="larger units"):
        book([huge])


def test_candles_are_no_market(tmp_path):
    with pytest.raises(UsageError, match="an exchange is made of trades"):
        Tape(Recorded([write(tmp_path / "c.parquet", candles(50))]))


@given(base=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=2, max_size=6), quote=st.sampled_from(QUOTES))
def test_a_listed_symbol_is_divided_into_the_instrument_it_came_from(base, quote):
    """But for those that could mean two pairs, such as USDTUSD: a base and a quote that end like a longer quote."""
    symbol = f"{base}-{quote}"
    listed = listing_of(f"simulated:{symbol}")
    assert (listed.base, listed.quote) == (base, quote)
    if not any((base + quote).endswith(other) and len(other) > len(quote) for other in QUOTES):
        assert dashed(listed.binance) == symbol


def test_names_at_kraken_carry_the_letters_of_its_oldest_assets():
    names = {
        "BTC-USD": ("XXBTZUSD", "XBTUSD", "XBT/USD", "BTC/USD"),
        "ETH-BTC": ("XETHXXBT", "ETHXBT", "ETH/XBT", "ETH/BTC"),
        "BTC-USDT": ("XBTUSDT", "XBTUSDT", "XBT/USDT", "BTC/USDT"),
        "SOL-EUR": ("SOLEUR", "SOLEUR", "SOL/EUR", "SOL/EUR"),
        "DOGE-USD": ("XDGUSD", "XDGUSD", "XDG/USD", "DOGE/USD"),
    }
    for symbol, expected in names.items():
        listed = listing_of(f"x:{symbol}")
        assert (listed.kraken_pair, listed.kraken_altname, listed.kraken_wsname, listed.kraken_symbol) == expected


def test_undivided_and_contract_symbols_are_listed_as_the_pairs_they_are():
    assert listing_of("coinbase:BTCUSD").binance == "BTCUSD"
    assert listing_of("binance:BTC-USD-PERP").binance == "BTCUSD_PERP"
    with pytest.raises(UsageError, match="name it base and quote"):
        listing_of("x:SPX500")
    with pytest.raises(UsageError, match=r"both (BTC|XBT)USD"):
        listings_of(["a:BTC-USD", "b:BTCUSD"])
    with pytest.raises(UsageError, match="both XBTUSD"):
        listings_of(["a:BTC-USD", "a:BTC-USD-PERP"])
