"""Lines by name: an instrument's first line bears its name, every later one a number behind ``@``."""

from __future__ import annotations

from typing import Literal

MARK = "@"

BASELINES = ("mean", "persistence", "ewma")
"""The forecasts that every model must beat, see ``domain.baselines``."""

FROZEN = "frozen"
"""The champions as they stood at the end of the training window: the yardstick of incremental learning."""

Kind = Literal["initial", "update", "unlearned"]
"""How a version came about: trained from history, learned from the stream, or learned from the lake once more without
some of what it once learned."""


def instrument_of(line: str) -> str:
    """Return the instrument that a line predicts.

    >>> instrument_of("binance:BTC-USDT@2"), instrument_of("binance:BTC-USDT")
    ('binance:BTC-USDT', 'binance:BTC-USDT')
    """
    return line.partition(MARK)[0]


def line_of(instrument: str, ordinal: int) -> str:
    """Return the name of an instrument's line, counted from 1.

    >>> line_of("binance:BTC-USDT", 1), line_of("binance:BTC-USDT", 2)
    ('binance:BTC-USDT', 'binance:BTC-USDT@2')
    """
    return instrument if ordinal == 1 else f"{instrument}{MARK}{ordinal}"
