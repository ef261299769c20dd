"""Both venues against the exchange in a box: pages, names, and candles held to bars of the same trades."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from domain.bars import BUY, SELL, VWAP, BarState, add_trades, close_until
from domain.errors import UsageError
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from markets.binance import SETTLED_NS, Binance
from markets.kraken import Kraken
from markets.rest import RestClient
from markets.source import Resume
from tests.markets.box import BTC, ETH, OPENS

pytestmark = pytest.mark.process

VENUES = {"binance": Binance, "kraken": Kraken}


def joined(tables) -> dict[str, np.ndarray]:
    tables = list(tables)
    return {name: np.concatenate([getattr(table, name) for table in tables]) for name in vars(tables[0])}


def pages(box, name, call) -> list:
    """Return what a call yields of a venue of the box."""

    async def run():
        async with RestClient(box.address.rest, 6_000) as rest:
            return [page async for page in call(VENUES[name](venue="simulated"), rest)]

    return asyncio.run(run())


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("instrument", [BTC, ETH])
@pytest.mark.parametrize("by_id", [True, False])
def test_pages_of_trades_are_the_markets(box, market, venue, instrument, by_id):
    """Several thousand, from the middle of a page to the newest, by id as by time."""
    window = joined(market.history(instrument, OPENS - 120 * NANOS_PER_MINUTE, OPENS))
    stop = len(window["ts"]) // 5
    after = Resume(int(window["ts"][stop]), int(window["trade_id"][stop]) if by_id else None)
    wanted = window["trade_id"] > window["trade_id"][stop] if by_id else window["ts"] > after.after_ts
    got = joined(pages(box, venue, lambda venue, rest: venue.trades(rest, instrument, after)))
    assert wanted.sum() > 3_000
    for name, column in window.items():
        assert np.array_equal(got[name][: wanted.sum()], column[wanted]), name
    assert np.all(got["ts"][wanted.sum() :] >= OPENS)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("instrument", [BTC, ETH])
def test_candles_are_the_bars_of_the_same_trades_bit_for_bit(box, market, venue, instrument):
    start = OPENS - NANOS_PER_DAY
    got = joined(pages(box, venue, lambda venue, rest: venue.candles(
        rest, instrument, NANOS_PER_MINUTE, start, OPENS)))  # fmt: skip
    state = BarState.empty(NANOS_PER_MINUTE, 0)
    tables = [add_trades(state, table, NANOS_PER_MINUTE, 0)[0] for table in market.history(instrument, start, OPENS)]
    bars = joined([*tables, close_until(state, OPENS, NANOS_PER_MINUTE)])
    told = bars["ts"] <= OPENS - SETTLED_NS if venue == "binance" else np.arange(len(bars["ts"])) >= 1_440 - 719
    assert np.array_equal(got["ts"], bars["ts"][told])
    columns = np.arange(got["values"].shape[1])
    if venue == "kraken":  # it does not tell the takers' sides, and rounds its vwap
        assert not got["values"][:, [BUY, SELL]].any()
        columns = np.setdiff1d(columns, [BUY, SELL, VWAP])
    assert np.array_equal(got["values"][:, columns], bars["values"][told][:, columns])


@pytest.mark.parametrize("venue", VENUES)
def test_the_box_is_checked_as_the_exchange_is(box, venue):
    async def run():
        exchange = VENUES[venue](venue="simulated")
        async with RestClient(box.address.rest, 6_000) as rest:
            assert await exchange.now(rest) == OPENS
            await exchange.check(rest, [BTC, ETH])
            with pytest.raises(UsageError, match="did you mean simulated:BTC-USD"):
                await exchange.check(rest, [BTC, "simulated:BTC-USDX"])

    asyncio.run(run())
