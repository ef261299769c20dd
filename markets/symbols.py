"""How a venue's name of a market becomes an instrument, ``venue:SYMBOL``."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from domain.fields import INSTRUMENT_PATTERN

QUOTES = ("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY", "DAI", "BTC", "ETH", "BNB")
"""Quote assets that end an exchange's undivided symbol, longer ones before those they end with."""

LONGEST = 64
"""Characters of an instrument: it names files too."""


def dashed(symbol: str) -> str:
    """Return an undivided exchange symbol with its parts divided, or as it is when the quote asset is unknown.

    >>> dashed("BTCUSDT"), dashed("ETHBTC"), dashed("BTCUSD_PERP"), dashed("BTC-USDT"), dashed("SPX500")
    ('BTC-USDT', 'ETH-BTC', 'BTC-USD-PERP', 'BTC-USDT', 'SPX500')
    """
    pair, _, contract = symbol.partition("_")
    if "-" not in pair:
        for quote in QUOTES:
            if pair.endswith(quote) and len(pair) > len(quote):
                pair = f"{pair[: -len(quote)]}-{quote}"
                break
    return f"{pair}-{contract}" if contract else pair


def instrument_of(symbol: str, venue: str) -> str | None:
    """Return the instrument of a symbol, which may carry its own venue; None when it cannot be one.

    >>> instrument_of("btc/usd", "recorded"), instrument_of("COINBASE:BTCUSD", "recorded"), instrument_of("?", "x")
    ('recorded:BTC-USD', 'coinbase:BTCUSD', None)
    """
    own, colon, name = symbol.strip().rpartition(":")
    instrument = f"{own.lower() if colon else venue}:{name.upper().replace('/', '-')}"
    return instrument if len(instrument) <= LONGEST and INSTRUMENT_PATTERN.match(instrument) else None


def suggestion(venue: str, symbol: str, known: Iterable[str]) -> str:
    """Return what a person who wrote an unknown symbol may have meant.

    >>> suggestion("binance", "BTC-USTD", ["ETH-EUR", "BTC-USDT"]), suggestion("binance", "X", [])
    ('did you mean binance:BTC-USDT?', 'see how binance writes it')
    """
    close = [f"{venue}:{name}" for name in get_close_matches(symbol, known)]
    return f"did you mean {' or '.join(close)}?" if close else f"see how {venue} writes it"
