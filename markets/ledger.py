"""The running account of one instrument in one file: what must be true of its rows, told piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from domain.events import NANOS_PER_MINUTE
from domain.tables import Flags, Floats, Ints
from markets.findings import Finding, lasting, utc
from markets.rows import Rows, join
from markets.source import Kind

MANY = 60
"""Rows from which a flat price is a broken file and not a quiet hour."""

JUMP = 0.5
"""Relative change from one row to the next that is more often a misplaced decimal than a market."""

LONG = 60 * NANOS_PER_MINUTE
"""A gap worth a warning."""

_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME = range(5)
_FIXES = {
    "order": "sort the file by symbol and ts",
    "id_order": "sort the file by symbol, ts and trade_id",
    "duplicate": "keep one of them",
    "price": "correct or drop the row",
    "volume": "correct or drop the row",
    "ohlc": "correct or drop the row",
}


class Ledger:
    """Adds up the pieces of one instrument in one file; ``findings`` is the judgement.

    Attributes
    ----------
    rows, first_ts, last_ts : how many, from when to when
    steps : of candles, each positive distance between two: how often, and the first row at that distance
    """

    def __init__(self, path: Path, kind: Kind, instrument: str) -> None:
        self.path, self.kind, self.instrument = path, kind, instrument
        self.rows = self.first_row = self.first_ts = self.last_ts = 0
        self.first_id = self.last_id = 0
        self.steps: dict[int, tuple[int, int]] = {}
        self._last: Rows | None = None
        self._faults: dict[str, tuple[Literal["fatal", "warning"], int, str, int]] = {}
        self._minutes = self._silent = self._lost = 0
        self._gap = (0, 0)
        self._low, self._high = np.inf, -np.inf

    def add(self, rows: Rows) -> None:
        """Add the next rows of this instrument, in the order of the file."""
        if not len(rows):
            return
        if self._last is None:
            self.first_row, self.first_ts = int(rows.row[0]), int(rows.ts[0])
            self.first_id = int(rows.trade_id[0])
            self._minutes = 1
        self._values(rows)
        # Everything else compares a row with the one above it, which may be in the piece before.
        joined = rows if self._last is None else join(self._last, rows)
        self._times(joined)
        if self.kind == "trades":
            self._ids(joined)
        self._jumps(joined)
        self._last = rows.pick(slice(-1, None))
        self.rows += len(rows)
        self.last_ts, self.last_id = int(rows.ts[-1]), int(rows.trade_id[-1])

    def findings(self, interval: int | None) -> list[Finding]:
        """Return what was found; ``interval`` is the length of a candle, None for trades."""
        found = [
            self._finding(severity, code, row, text + (f", as in {count - 1:,} more rows" if count > 1 else ""),
                          _FIXES.get(code, "look at the rows around it"))
            for code, (severity, row, text, count) in self._faults.items()
        ]  # fmt: skip
        found += self._flatness()
        gap, row = self._gap
        if gap >= LONG:
            found.append(self._finding("warning", "gap", row, f"the longest gap, {lasting(gap)}, ends here"))
        if self._lost:
            found.append(self._finding("warning", "lost", None, f"{self._lost:,} trade ids are missing in between"))
        length = interval or NANOS_PER_MINUTE
        slots = (self.last_ts // length) - (self.first_ts // length) + 1
        share = 1 - (self.rows if interval else self._minutes) / max(slots, 1)
        if share > 0:
            what = f"intervals of {lasting(length)}" if interval else "minutes"
            severity: Literal["warning", "note"] = "warning" if share > 0.5 else "note"  # noqa: PLR2004 - most of them
            found.append(self._finding(severity, "empty", None, f"{share:.1%} of the {what} have no row"))
        return found

    def _values(self, rows: Rows) -> None:
        prices = rows.values[:, :1] if self.kind == "trades" else rows.values[:, :_VOLUME]
        volume = rows.values[:, -1]
        bad = np.asarray((~(np.isfinite(prices) & (prices > 0))).any(axis=1))
        self._fault("price", bad, rows.row, "a price of {} is not a positive number", _worst(prices))
        if self.kind == "trades":
            wrong = ~(np.isfinite(volume) & (volume > 0))
            self._fault("volume", wrong, rows.row, "a size of {} is not a positive number", volume)
        else:
            wrong = ~(np.isfinite(volume) & (volume >= 0))
            self._fault("volume", wrong, rows.row, "a volume of {} is negative or not a number", volume)
            low, high = rows.values[:, _LOW], rows.values[:, _HIGH]
            ends = rows.values[:, [_OPEN, _CLOSE]]
            inside = (low <= ends.min(axis=1)) & (ends.max(axis=1) <= high)
            text = "open, high, low, close {} do not satisfy low <= open, close <= high"
            self._fault("ohlc", ~inside & ~bad, rows.row, text, rows.values[:, :_VOLUME])
        self._silent += int(np.count_nonzero(volume == 0))
        sound = prices[~bad]
        if len(sound):
            self._low, self._high = min(self._low, sound.min()), max(self._high, sound.max())

    def _times(self, joined: Rows) -> None:
        ts, row = joined.ts[1:], joined.row
        steps = np.diff(joined.ts)
        self._fault("order", steps < 0, row, "ts {} is before that of row {}", ts)
        if self.kind == "bars":
            self._fault("duplicate", steps == 0, row, "ts {} repeats row {}", ts)
            sizes, first, counts = np.unique(steps, return_index=True, return_counts=True)
            for size, at, count in zip(sizes.tolist(), first.tolist(), counts.tolist(), strict=True):
                if size > 0:
                    known = self.steps.get(size, (0, int(row[at + 1])))
                    self.steps[size] = known[0] + count, known[1]
        if len(steps):
            self._minutes += int(np.count_nonzero(np.diff(joined.ts // NANOS_PER_MINUTE)))
            at = int(np.argmax(steps))
            self._gap = max(self._gap, (int(steps[at]), int(row[at + 1])), key=lambda gap: gap[0])

    def _ids(self, joined: Rows) -> None:
        steps = np.diff(joined.trade_id)
        self._fault("duplicate", steps == 0, joined.row, "trade_id {} repeats row {}", joined.trade_id[1:])
        self._fault("id_order", steps < 0, joined.row, "trade_id {} is lower than in row {}", joined.trade_id[1:])
        self._lost += int((steps[steps > 1] - 1).sum())

    def _jumps(self, joined: Rows) -> None:
        price = joined.values[:, 0 if self.kind == "trades" else _CLOSE]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            change = price[1:] / price[:-1] - 1
            jumps = np.isfinite(change) & ((change > JUMP) | (change < 1 / (1 + JUMP) - 1))
        self._fault("jump", jumps, joined.row, "the price changes by {:+.0%} after row {}", change, "warning")

    def _flatness(self) -> list[Finding]:
        flat, silent = self._low == self._high, self._silent == self.rows
        if self.rows < MANY:
            return []
        if flat and silent:
            text = f"all {self.rows:,} rows have price {self._low:g} and volume 0"
            return [self._finding("fatal", "flat", self.first_row, text, "this is no market data: get the file again")]
        if flat:
            return [
                self._finding("warning", "flat", self.first_row, f"all {self.rows:,} rows have price {self._low:g}")
            ]
        if self._silent * 2 > self.rows:
            text = f"{self._silent / self.rows:.1%} of the rows have volume 0"
            return [self._finding("warning", "silent", None, text)]
        return []

    def _fault(self, code: str, wrong: Flags, row: Ints, text: str, values: Ints | Floats,
               severity: Literal["fatal", "warning"] = "fatal") -> None:  # fmt: skip
        """Note the first wrong row and count the rest; ``row`` has one more where rows are compared with the last."""
        count = int(np.count_nonzero(wrong))
        if not count:
            return
        if code in self._faults:
            severity, first, said, before = self._faults[code]
            self._faults[code] = severity, first, said, before + count
            return
        at = int(np.argmax(wrong))
        value = utc(int(values[at])) if text.startswith("ts ") else values[at].tolist()
        above = len(row) - len(wrong)
        self._faults[code] = severity, int(row[at + above]), text.format(value, row[at]), count

    def _finding(self, severity: Literal["fatal", "warning", "note"], code: str, row: int | None, text: str,
                 fix: str = "") -> Finding:  # fmt: skip
        return Finding(severity, code, self.path, row, f"{self.instrument}: {text}", fix)


def _worst(prices: Floats) -> Floats:
    """Return of each row the first price that is no positive number, else the first."""
    at = np.argmax(~(np.isfinite(prices) & (prices > 0)), axis=1)
    return np.asarray(prices[np.arange(len(prices)), at], np.float64)
