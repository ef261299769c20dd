"""What an instrument is called at each exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.errors import UsageError
from markets.symbols import dashed

_KRAKEN = {"BTC": "XBT", "DOGE": "XDG"}
"""Assets that have another code in Kraken's REST interface."""

# Kraken's oldest assets carry a letter, X for coins and Z for currencies, and so do pairs of two of them.
_OLD_COINS = frozenset({"XBT", "ETH", "LTC", "XRP", "XLM", "XMR", "ETC", "ZEC", "REP", "MLN"})
_OLD_CURRENCIES = frozenset({"USD", "EUR", "GBP", "JPY", "CAD", "AUD"})


@dataclass(frozen=True)
class Listing:
    """One instrument and its names.

    Attributes
    ----------
    instrument : ``venue:SYMBOL``
    base, quote : the two assets
    binance : the symbol in Binance's REST interface; its streams have it in small letters

    Examples
    --------
    >>> btc = listing_of("simulated:BTC-USD")
    >>> btc.binance, btc.kraken_pair, btc.kraken_altname, btc.kraken_symbol
    ('BTCUSD', 'XXBTZUSD', 'XBTUSD', 'BTC/USD')
    """

    instrument: str
    base: str
    quote: str
    binance: str

    @property
    def kraken_assets(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The key and the short name of base and quote in Kraken's REST interface."""
        base, quote = (_KRAKEN.get(asset, asset) for asset in (self.base, self.quote))
        return (_key(base), base), (_key(quote), quote)

    @property
    def kraken_altname(self) -> str:
        """The short name of the pair there."""
        (_, base), (_, quote) = self.kraken_assets
        return base + quote

    @property
    def kraken_pair(self) -> str:
        """The key of the pair there: with the letters of the oldest assets when both are of them."""
        (base_key, base), (quote_key, quote) = self.kraken_assets
        return base_key + quote_key if base_key != base and quote_key != quote else base + quote

    @property
    def kraken_wsname(self) -> str:
        """The name of the pair in version 1 of the WebSocket interface, which the REST interface tells."""
        (_, base), (_, quote) = self.kraken_assets
        return f"{base}/{quote}"

    @property
    def kraken_symbol(self) -> str:
        """The pair's name in version 2 of the WebSocket interface."""
        return f"{self.base}/{self.quote}"


def listing_of(instrument: str) -> Listing:
    """Return the names of an instrument.

    Raises
    ------
    UsageError
        When its symbol names no pair of assets.
    """
    symbol = instrument.partition(":")[2]
    base, dash, rest = dashed(symbol).partition("-")
    if not dash:
        raise UsageError(f"{instrument}: an exchange trades pairs; name it base and quote, such as BTC-USD")
    quote, _, contract = rest.partition("-")
    return Listing(instrument, base, quote, f"{base}{quote}_{contract}" if contract else base + quote)


def listings_of(instruments: Sequence[str]) -> tuple[Listing, ...]:
    """Return the names of all instruments.

    Raises
    ------
    UsageError
        When one names no pair, or two would have one name.
    """
    listings = tuple(listing_of(instrument) for instrument in instruments)
    seen: dict[str, str] = {}
    for listing in listings:
        for name in {listing.binance, listing.kraken_altname}:
            other = seen.setdefault(name, listing.instrument)
            if other != listing.instrument:
                raise UsageError(f"{other} and {listing.instrument} are both {name}; serve one of them")
    return listings


def _key(code: str) -> str:
    return f"X{code}" if code in _OLD_COINS else f"Z{code}" if code in _OLD_CURRENCIES else code
