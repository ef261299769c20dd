"""An exchange in a box: the public interfaces of Binance and Kraken on loopback, over any source of trades."""
