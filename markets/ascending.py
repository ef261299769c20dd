"""One instrument's trades in ascending order of their ids, each once, where ids need not follow each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from domain.events import Trade
from markets.contiguous import MOST_HELD
from markets.source import Resume

_PROVEN = 100
"""Steps by one after which ids that follow each other are proof enough that nothing is missing."""

_FREE = 200
"""Steps that are believed of an exchange before any was seen: two skips in a hundred steps are forgiven, then one."""

_ALIKE = 5
"""Trades that look the same and have different ids, none the same, after which it is no accident."""

_REMEMBERED = 1_000
"""Trades of which it is remembered how they look."""

_Look: TypeAlias = tuple[int, float, float]


class Ascending:
    """What may be handed out of one instrument's trades, which come from a stream and by request.

    Neither tells of gaps. Ids that have counted up by one so far are expected to go on doing so: a skip is a hole, to
    be asked for, until too many turn out to be none. Whoever reads the stream raises a doubt where it may have left
    something out. What is not told then is passed over, and nothing older than what was handed out ever comes.

    Parameters
    ----------
    resume
        Where the reader stopped.
    most_held
        Most trades to hold. When there are more, all are let go and have to be asked for.

    Attributes
    ----------
    duplicates, repaired, let_go : int
        Trades that were dropped because they were not newer, that came by request, and that were held and let go.

    Examples
    --------
    >>> order = Ascending(Resume(0, 7))
    >>> trades = {n: Trade("toy:A-B", n, n, 1.0, 1.0, 1) for n in range(8, 13)}
    >>> order.show([trades[8], trades[8], trades[11]])
    >>> order.behind, order.duplicates
    (True, 1)
    >>> last = order.ask()
    >>> [trade.trade_id for trade in order.release(order.fill([trades[8], trades[9]]))]
    [8, 9]
    >>> [trade.trade_id for trade in order.release(last)], order.behind, order.repaired, order.absent
    ([11], False, 1, 1)
    """

    def __init__(self, resume: Resume, most_held: int = MOST_HELD) -> None:
        self._resume = resume
        self.duplicates = self.repaired = self.let_go = 0
        self._most_held = most_held
        self._newest = resume.after_trade_id
        self._last: Trade | None = None
        self._held: dict[int, Trade] = {}
        self._doubted = True  # what came between the reader's last trade and the stream is anybody's
        self._steps = self._skips = self._absent = 0
        self._shown: dict[_Look, int] = {}
        self._told: dict[_Look, int] = {}
        self._agreed = self._differed = 0

    @property
    def after(self) -> Resume:
        """Where whoever asks goes on."""
        return self._resume if self._last is None else Resume(self._last.ts_event, self._last.trade_id)

    @property
    def newest(self) -> int | None:
        """The id of the last trade handed out, or of the one the reader had."""
        return self._newest

    @property
    def absent(self) -> int:
        """Ids that were passed over; 0 of an exchange that does not count up by one."""
        return self._absent if self._consecutive else 0

    @property
    def two_numberings(self) -> bool:
        """Whether stream and requests tell the same trades by different ids."""
        return not self._agreed and self._differed >= _ALIKE

    @property
    def behind(self) -> bool:
        """Whether something may be missing before what waits."""
        if self._held and self._newest is not None and self._consecutive:
            hole = max(self._held) - self._newest != len(self._held)
            if hole or self._steps >= _PROVEN:
                return hole
        return self._doubted

    def doubt(self) -> None:
        """Take note that the stream may have left something out."""
        self._doubted = True

    def ask(self) -> int | None:
        """Take the doubt down, for somebody asks now; return up to which id it matters, None when nothing waits."""
        self._doubted = False
        return max(self._held, default=None)

    def show(self, trades: Iterable[Trade]) -> None:
        """Hold what the stream has shown."""
        trades = list(trades)
        self._compare(trades, self._shown, self._told)
        for trade in trades:
            if trade.trade_id in self._held or not self._is_new(trade):
                self.duplicates += 1
                continue
            if len(self._held) >= self._most_held:
                self.let_go += len(self._held)
                self._held.clear()
                self._doubted = True
            self._held[trade.trade_id] = trade

    def fill(self, trades: Iterable[Trade]) -> int:
        """Hold what was told on request, instead of what was shown; return up to which id everything is known."""
        trades = list(trades)
        self._compare(trades, self._told, self._shown)
        told = {trade.trade_id: trade for trade in trades if self._is_new(trade)}
        if told:
            self.repaired += len(told.keys() - self._held.keys())
            self._held.update(told)
        return max(told, default=-1)

    def release(self, last: int | None) -> list[Trade]:
        """Hand out what waits, up to an id, None for all: nobody tells more of what lies between."""
        out = []
        for number in sorted(one for one in self._held if last is None or one <= last):
            trade = self._held.pop(number)
            if self._newest is not None:
                between = number - self._newest - 1
                self._absent += between
                self._skips += between > 0
                self._steps += between == 0
            out.append(trade)
            self._last, self._newest = trade, number
        return out

    def _compare(self, trades: list[Trade], mine: dict[_Look, int], others: dict[_Look, int]) -> None:
        for trade in trades:
            look = (trade.ts_event, trade.price, trade.size)
            if look in others:
                same = others[look] == trade.trade_id
                self._agreed += same
                self._differed += not same
            mine[look] = trade.trade_id
        for look in list(mine)[: max(0, len(mine) - _REMEMBERED)]:
            del mine[look]

    def _is_new(self, trade: Trade) -> bool:
        return trade.ts_event > self._resume.after_ts if self._newest is None else trade.trade_id > self._newest

    @property
    def _consecutive(self) -> bool:
        return self._skips * 100 <= self._steps + _FREE
