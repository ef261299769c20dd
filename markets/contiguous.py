"""One instrument's trades in the order of their ids: each once, none before all that come before it."""

from __future__ import annotations

from collections.abc import Iterable

from domain.events import NANOS_PER_MINUTE, Trade
from markets.source import Resume

MOST_HELD = 200_000
"""Trades of all instruments that are held while older ones are missing: some 30 MB, a busy hour of a large market."""


ANEW_NS = NANOS_PER_MINUTE
"""A trade of a known id that happened so long after the last one is no repetition."""


class Contiguous:
    """What may be handed out of one instrument's trades, which come from a stream with faults and from REST.

    The stream is believed about what it shows, never about what it leaves out: a trade that does not follow the last
    one is held until REST has told what lies between. REST answers in order, and an id that it passes over without the
    stream having shown it does not exist.

    Parameters
    ----------
    resume
        Where the reader stopped.
    most_held
        Most trades to hold. When there are more, all are let go: REST will tell them too.

    Attributes
    ----------
    duplicates, repaired, absent, let_go : int
        Trades that were dropped because they were not newer, that came from REST, ids that do not exist, and trades
        that were held and let go.
    anew : Trade or None
        One that shows that the exchange counts its trades from the start again: nothing can be handed out until its
        ids have passed those that are known.

    Examples
    --------
    >>> order, out = Contiguous(Resume(0, 7)), []
    >>> trades = {n: Trade("toy:A-B", n, n, 1.0, 1.0, 1) for n in range(8, 12)}
    >>> [order.take(trades[n], out) for n in (8, 8, 10)], order.behind
    ([True, True, False], True)
    >>> order.fill([trades[9]], out)
    >>> [trade.trade_id for trade in out], order.behind, order.duplicates
    ([8, 9, 10], False, 1)
    """

    def __init__(self, resume: Resume, most_held: int = MOST_HELD) -> None:
        self._resume = resume
        self.duplicates = self.repaired = self.absent = self.let_go = 0
        self.anew: Trade | None = None
        self._most_held = most_held
        # The id to hand out next; without one, nothing of the stream is known to join what the reader has.
        self._next = None if resume.after_trade_id is None else resume.after_trade_id + 1
        self._last: Trade | None = None
        self._newest = -1
        self._held: dict[int, Trade] = {}

    @property
    def after(self) -> Resume:
        """Where whoever asks REST goes on."""
        return self._resume if self._last is None else Resume(self._last.ts_event, self._last.trade_id)

    @property
    def behind(self) -> bool:
        """Whether the stream has shown a trade that cannot be handed out yet."""
        return self._newest >= (self._next or 0)

    @property
    def held(self) -> int:
        """How many trades wait for older ones."""
        return len(self._held)

    @property
    def newest(self) -> int | None:
        """The id of the last trade handed out, or of the one the reader had."""
        return None if self._next is None else self._next - 1

    def take(self, trade: Trade, out: list[Trade]) -> bool:
        """Add to ``out`` what may be handed out now that the stream has shown this trade; tell whether it was its turn.

        A trade that the reader has already, or had let pass, is no reason to ask REST: for it, too, True is returned.
        """
        if trade.trade_id != self._next:
            return self._out_of_turn(trade)
        out.append(trade)
        self._last = trade
        self._next = trade.trade_id + 1
        if self._held:
            self._release(out)
        return True

    def fill(self, trades: Iterable[Trade], out: list[Trade]) -> None:
        """Add to ``out`` what may be handed out now that REST has told these trades, in order of their ids."""
        for trade in trades:
            number = trade.trade_id
            if self._next is not None and number < self._next:
                continue
            if number != self._next:
                self._pass_over(number, out)
            self._held.pop(number, None)
            out.append(trade)
            self._last = trade
            self._next = number + 1
            self.repaired += 1
        self._release(out)

    def _out_of_turn(self, trade: Trade) -> bool:
        number = trade.trade_id
        if self._next is None and trade.ts_event <= self._resume.after_ts:
            return True
        if (self._next is not None and number < self._next) or number in self._held:
            self.duplicates += 1
            if trade.ts_event > self.after.after_ts + ANEW_NS and number not in self._held:
                self.anew = trade
            return number not in self._held
        if len(self._held) >= self._most_held:
            self.let_go += len(self._held)
            self._held.clear()
        self._held[number] = trade
        self._newest = max(self._newest, number)
        return False

    def _pass_over(self, number: int, out: list[Trade]) -> None:
        """Hand out what the stream has shown before this id; what neither has shown is absent."""
        shown = sorted(one for one in self._held if one < number)
        first = self._next if self._next is not None else min(shown, default=number)
        self.absent += number - first - len(shown)
        out += [self._held.pop(one) for one in shown]

    def _release(self, out: list[Trade]) -> None:
        """Hand out the held trades whose turn it is."""
        while self._next is not None and (trade := self._held.pop(self._next, None)) is not None:
            out.append(trade)
            self._last = trade
            self._next += 1
