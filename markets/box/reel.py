"""What happens next: the trades of all listings from a moment on, in the order they happen."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from domain.events import NANOS_PER_DAY
from domain.tables import Ints
from markets.box.listing import Listing
from markets.box.tape import Booked, Tape

Row: TypeAlias = tuple[int, int, int, int, int, int]
"""A trade: the place of its listing, ``ts``, ``trade_id``, ``price``, ``size`` and ``side`` as in ``Booked``."""


class Reel:
    """A place on the tape that moves forward.

    Parameters
    ----------
    tape
        Of all trades.
    listings
        Which to follow; rows name their places.
    after : int
        Only trades later than this are still to come, ns.
    """

    def __init__(self, tape: Tape, listings: tuple[Listing, ...], after: int) -> None:
        self._tape = tape
        self._names = [listing.instrument for listing in listings]
        self._day = after // NANOS_PER_DAY
        self._rest = [tape.day(name, self._day).since(after + 1) for name in self._names]

    @property
    def next(self) -> int:
        """When the next trade happens, or when it is worth asking again, ns."""
        return min((int(rest.ts[0]) for rest in self._rest if len(rest)), default=self._midnight)

    def after(self, n: int) -> int | None:
        """Return when the ``n`` next trades have happened, ns, or all until tomorrow's end; None when none will."""
        ts = _first(self._rest, n)
        ends = self._tape.ends
        if len(ts) == n or (ends is not None and ends < self._midnight):
            return int(ts[-1]) if len(ts) else None
        tomorrow = [self._tape.day(name, self._day + 1) for name in self._names]
        ts = np.concatenate((ts, _first(tomorrow, n - len(ts))))
        return int(ts[-1]) if len(ts) else self._midnight

    def take(self, until: int) -> list[Row]:
        """Return the trades that happened since the last call and until then, that time included."""
        rows: list[Row] = []
        while True:
            parts = []
            for place, rest in enumerate(self._rest):
                n = int(np.searchsorted(rest.ts, until, side="right"))
                if n:
                    parts.append((place, rest.rows(0, n)))
                    self._rest[place] = rest.rows(n, None)
            rows += _merged(parts)
            if until < self._midnight:
                return rows
            self._day += 1
            self._rest = [self._tape.day(name, self._day) for name in self._names]

    @property
    def _midnight(self) -> int:
        return (self._day + 1) * NANOS_PER_DAY


def _first(parts: list[Booked], n: int) -> Ints:
    """Return the first times of several, at most ``n``."""
    ts: Ints = np.sort(np.concatenate([part.ts[:n] for part in parts]))[:n]
    return ts


def _merged(parts: list[tuple[int, Booked]]) -> list[Row]:
    if not parts:
        return []
    places = np.concatenate([np.full(len(part), place, np.int64) for place, part in parts])
    columns = [
        np.concatenate([getattr(part, name) for _, part in parts])
        for name in ("ts", "trade_id", "price", "size", "side")
    ]
    order = np.argsort(columns[0], kind="stable") if len(parts) > 1 else slice(None)
    return list(zip(*(column[order].tolist() for column in (places, *columns)), strict=True))
