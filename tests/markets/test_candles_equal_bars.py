"""An exchange's candle and the bar of its trades are the same numbers: history and stream join without a trace."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from domain.bars import BAR_COLUMNS, BarState, add_candles, add_trades, close_until
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.tables import BarTable
from markets.binance import Binance
from markets.kraken import Kraken
from markets.live import Live
from markets.rest import RestClient
from markets.simulated import Simulated
from tests.markets.box import box_of

OPENS = 20_000 * NANOS_PER_DAY + 7 * 3_600_000_000_000
START = OPENS - 10 * 3_600_000_000_000
BTC = "simulated:BTC-USDT"
MADE = [name for name in BAR_COLUMNS if name not in {"buy_volume", "sell_volume", "vwap"}]


@pytest.fixture(scope="module")
def market():
    return Simulated(7, [BTC], OPENS, 1)


@pytest.fixture(scope="module")
def bars(market):
    """The bars of the trades, as the stream makes them."""
    state = BarState.empty(NANOS_PER_MINUTE, 0)
    parts = [add_trades(state, table, NANOS_PER_MINUTE, 0)[0] for table in market.history(BTC, START, OPENS)]
    return joined([*parts, close_until(state, OPENS, NANOS_PER_MINUTE)])


@pytest.mark.parametrize(("venue", "columns"), [(Binance("simulated"), BAR_COLUMNS), (Kraken("simulated"), MADE)])
def test_a_day_s_candles_are_the_bars_of_its_trades_bit_for_bit(market, bars, venue, columns):
    with box_of(market, speed=1.0) as box:
        rest = partial(RestClient, box.address.rest, venue.weight_a_minute)
        live = Live(venue, rest, [BTC], OPENS, NANOS_PER_DAY, address=box.address, simulated=True)
        state = BarState.empty(NANOS_PER_MINUTE, 0)
        parts = [add_candles(state, page, NANOS_PER_MINUTE)[0] for page in live.history(BTC, START, OPENS)]
    candles = joined([*parts, close_until(state, OPENS, NANOS_PER_MINUTE)])
    assert len(bars) == 600
    assert candles.ts.tolist() == bars.ts.tolist()
    for name in columns:
        column = BAR_COLUMNS.index(name)
        assert candles.values[:, column].tolist() == bars.values[:, column].tolist(), name


def joined(parts: list[BarTable]) -> BarTable:
    return BarTable(np.concatenate([b.ts for b in parts]), np.concatenate([b.values for b in parts]))
