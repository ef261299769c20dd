"""ccxt's clients of Binance and Kraken, pointed at an exchange in a box."""

from __future__ import annotations

from contextlib import asynccontextmanager

from markets.ccxt_client import KEPT, client_of

EXCHANGES = ("binance", "kraken")


def point(client, box):
    """Let a client ask the box, without pauses, which loopback needs none of."""
    client.enableRateLimit = False
    if client.id == "kraken":
        client.urls["api"]["public"] = box.address.rest
        client.urls["api"]["ws"]["publicV2"] = f"{box.address.stream}/v2"
    else:
        client.options |= {"fetchCurrencies": False}
        client.urls["api"]["public"] = f"{box.address.rest}/api/v3"
        client.urls["api"]["ws"]["spot"] = f"{box.address.stream}/ws"


@asynccontextmanager
async def boxed(exchange, box, kept=KEPT, *, one_numbering=True):
    """Open the client that a feed uses, of a box.

    A box's Binance streams trades, and tells them on request one by one with the ids of sums, from which the trades'
    own are restored where there shall be one numbering, as there is at the real one's stream of sums.
    """
    async with client_of(exchange) as client:
        point(client, box)
        client.options |= {"tradesLimit": kept}
        if exchange == "binance":
            client.options |= {"watchTrades": {"name": "trade"}, "watchTradesForSymbols": {"name": "trade"}}
            if one_numbering:
                parse = client.parse_trade
                client.parse_trade = lambda row, market=None: (
                    parse(row, market) | {"id": str(row.get("f", row.get("t")))}
                )
        yield client
