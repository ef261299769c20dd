"""The box is faithful: a client that nobody here wrote reads it as if it were the exchange, and misses nothing."""

from __future__ import annotations

import asyncio
import importlib
from decimal import Decimal

import numpy as np
import pytest

from domain.events import NANOS_PER_MINUTE as MINUTE
from tests.markets.box import BTC, ETH, OPENS, box_of
from tests.markets.boxed_ccxt import point

pytestmark = pytest.mark.process

HOUR, MS = 60 * MINUTE, 1_000_000
N = 1_000
# ccxt's cache loses what is beyond this limit without a word.
KEPT = {"tradesLimit": 200_000}


def binance(ccxt, box):
    spot = {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}}
    client = ccxt.binance({"newUpdates": True, "options": {**KEPT, **spot}})
    point(client, box)
    return client


def kraken(ccxt, box):
    client = ccxt.kraken({"newUpdates": True, "options": KEPT})
    point(client, box)
    return client


both = pytest.mark.parametrize("client_of", [binance, kraken])


@pytest.fixture(scope="module")
def ccxt():
    """Return the library, which takes seconds to import."""
    try:
        return importlib.import_module("ccxt.pro")
    except ImportError:
        pytest.skip("ccxt is not installed; it is the extra 'ccxt'")


def run(use, client_of, ccxt, box):
    """Return what a coroutine returns that uses a client of a box."""

    async def used():
        client = client_of(ccxt, box)
        try:
            await client.load_markets()
            async with asyncio.timeout(30):
                return await use(client)
        finally:
            await client.close()

    return asyncio.run(used())


def plain(trade):
    return tuple(trade[name] for name in ("symbol", "timestamp", "id", "price", "amount", "side"))


def as_ccxt(trade):
    base, quote = trade.instrument.partition(":")[2].split("-")
    side = "buy" if trade.side > 0 else "sell"
    return f"{base}/{quote}", trade.ts_event // MS, str(trade.trade_id), trade.price, trade.size, side


@both
def test_ccxt_watches_every_trade_once_and_in_order(ccxt, market, client_of):
    async def watched(client, symbol):
        trades = []
        while len(trades) < N:
            trades += await client.watch_trades(symbol)
        return trades

    async def watch(client):
        return await asyncio.gather(watched(client, "BTC/USD"), watched(client, "ETH/USD"))

    with box_of(market, speed=0) as box:
        btc, eth = run(watch, client_of, ccxt, box)
    events = market.open({}, 0).poll(100_000, 0)
    for instrument, trades in ((BTC, btc), (ETH, eth)):
        happened = [as_ccxt(event) for event in events if event.instrument == instrument]
        seen = list(map(plain, trades))
        began = happened.index(seen[0])  # each symbol is a request, and the market waits for its first reader only
        assert seen == happened[began : began + len(seen)]


@both
def test_ccxt_pages_through_every_trade_of_an_hour(ccxt, box, market, client_of):
    async def fetch(client):
        trades, since = {}, (OPENS - HOUR) // MS
        while True:
            page = await client.fetch_trades("BTC/USD", since, 1_000)
            known = len(trades)
            trades.update((trade["id"], trade) for trade in page)
            if len(trades) == known:
                return list(trades.values())
            since = page[-1]["timestamp"]

    trades = run(fetch, client_of, ccxt, box)
    [hour] = market.history(BTC, OPENS - HOUR, OPENS)
    happened = zip((hour.ts // MS).tolist(), hour.price.tolist(), hour.size.tolist(), strict=True)
    assert [(trade["timestamp"], trade["price"], trade["amount"]) for trade in trades] == list(happened)


@both
def test_ccxt_fetches_candles_that_are_the_sums_of_their_trades(ccxt, box, market, client_of):
    async def fetch(client):
        return await client.fetch_ohlcv("ETH/USD", "5m", (OPENS - 2 * HOUR) // MS, 24)

    candles = run(fetch, client_of, ccxt, box)
    [hours] = market.history(ETH, OPENS - 2 * HOUR, OPENS)
    assert [candle[0] for candle in candles] == [(OPENS - 2 * HOUR + k * 5 * MINUTE) // MS for k in range(24)]
    for start, *candle in candles:
        low, high = np.searchsorted(hours.ts, (start * MS, start * MS + 5 * MINUTE))
        price, size = hours.price[low:high], hours.size[low:high].tolist()
        volume = float(sum(Decimal(repr(lot)) for lot in size))
        assert candle == [price[0], price.max(), price.min(), price[-1], volume]


@both
def test_ccxt_loads_the_markets(ccxt, box, client_of):
    async def load(client):
        return client.markets

    markets = run(load, client_of, ccxt, box)
    assert set(markets) == {"BTC/USD", "ETH/USD"}
    assert all(market["active"] and market["spot"] for market in markets.values())
    assert [markets[name]["precision"]["price"] for name in ("BTC/USD", "ETH/USD")] == [0.1, 0.01]
