"""The gate before a partition of the grid: lets records through in order, keeps what is far ahead until others agree.

Bars, vectors, examples and predictions leave their maker one interval after another (``domain.sequence``). What is
refuted goes to the dead letters; what repeats is dropped, because a crash repeats. A record that is held is not yet
read: ``resume`` says from where a restart must read again, and there it comes to the same verdicts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np

from domain.bars import MAX_FILL
from domain.errors import BadRecord
from domain.events import Trade
from domain.sequence import AHEAD, HELD, NEXT, OFF_GRID, REPEATED, judge
from domain.tables import ExampleTable, Flags, Ints
from streaming import codec
from streaming.clock import Clock
from streaming.codec import Refuse
from streaming.joint import Joint
from streaming.transport import Key, Records, Transport, tails

T = TypeVar("T")


class Timed(Protocol):
    """A record with a time."""

    @property
    def ts_event(self) -> int:
        """Nanoseconds."""
        ...


R = TypeVar("R", bound=Timed)

_WHY = {
    OFF_GRID: ("grid", "its time is no multiple of the interval"),
    AHEAD: ("ahead", "its time is ahead of the records that followed it"),
}


class Gate(Generic[T]):
    """Judges one partition's records, rows of a table whose columns are its attributes.

    Parameters
    ----------
    joint : where the log joins what was followed before; rows beyond a hole do not come to the gate

    Attributes
    ----------
    newest : time of the newest record let through, ns
    repeated : records dropped because they were not newer
    """

    def __init__(self, newest: int, interval: int, refuse: Refuse, joint: Joint | None = None) -> None:
        self.newest, self.repeated = newest, 0
        self._interval, self._refuse, self._joint = interval, refuse, joint
        self._held: T | None = None
        self._offsets: list[int] = []
        self._values: dict[int, bytes] = {}

    def admit(self, table: T, offsets: list[int], records: Records) -> tuple[T, list[int]]:
        """Return the rows that may pass, with their offsets; those held from before come first.

        Parameters
        ----------
        table, offsets : what was decoded of ``records``
        """
        skipped = self._joint.skip(_time(table)) if self._joint is not None else 0
        if skipped:
            table, offsets = _pick(table, np.arange(len(offsets)) >= skipped), offsets[skipped:]
        if self._held is not None:
            pairs = zip(vars(self._held).values(), vars(table).values(), strict=True)
            table = type(table)(*(np.concatenate(pair) for pair in pairs))
            offsets = self._offsets + offsets
        verdicts, self.newest = judge(_time(table), self.newest, self._interval)
        passing = verdicts == NEXT
        if passing.all():
            self._held, self._offsets = None, []
            return table, offsets
        values = self._values | dict(zip(records.offsets, records.values, strict=True))
        for i in np.flatnonzero((verdicts == OFF_GRID) | (verdicts == AHEAD)).tolist():
            single = Records(records.topic, records.partition, [offsets[i]], [values[offsets[i]]])
            self._refuse(single, 0, BadRecord(*_WHY[int(verdicts[i])]))
        self.repeated += int((verdicts == REPEATED).sum())
        held = verdicts == HELD
        self._held, self._offsets = _pick(table, held), _those(offsets, held)
        self._values = {offset: values[offset] for offset in self._offsets}
        return _pick(table, passing), _those(offsets, passing)

    def resume(self, offset: int) -> int:
        """Return where a restart must read on, when everything before ``offset`` was given to the gate."""
        return self._offsets[0] if self._offsets else offset


def newest_in_order(
    transport: Transport, clock: Clock, key: Key, decode: Callable[[bytes], R], interval: int
) -> R | None:
    """Return the newest record of a partition of the grid that others agree with, None where there is none yet.

    Whatever a stranger left at the end, such as a time in the far future, does not count.
    """
    for values in tails(transport, clock, key):
        records = []
        for value in values:
            with contextlib.suppress(BadRecord):
                records.append(decode(value))
        verdicts, _ = judge(np.array([record.ts_event for record in records], np.int64), 0, interval)
        if (verdicts == NEXT).any():
            return records[int(np.flatnonzero(verdicts == NEXT)[-1])]
    return None


def unconfirmed(
    transport: Transport, clock: Clock, key: Key, decode: Callable[[bytes], R], after: int
) -> frozenset[int]:
    """Return the times, later than ``after``, of records at the end of a partition: too few yet to be believed."""
    times = set()
    for value in next(tails(transport, clock, key), []):
        with contextlib.suppress(BadRecord):
            times.add(decode(value).ts_event)
    return frozenset(time for time in times if time > after)


def newest_trade(transport: Transport, clock: Clock, key: Key, interval: int) -> Trade | None:
    """Return the newest trade of a partition that is no further ahead of the one before it than a gap is filled."""
    for values in tails(transport, clock, key):
        trades = []
        for value in values:
            with contextlib.suppress(BadRecord):
                trades.append(codec.trade(value))
        trades.sort(key=lambda trade: (trade.ts_event, trade.trade_id))
        while len(trades) > 1 and trades[-1].ts_event - trades[-2].ts_event > MAX_FILL * interval:
            trades.pop()
        if trades:
            return trades[-1]
    return None


def _time(table: object) -> Ints:
    ts: Ints = table.available if isinstance(table, ExampleTable) else table.ts  # type: ignore[attr-defined]
    return ts


def _pick(table: T, which: Flags) -> T:
    return type(table)(*(column[which] for column in vars(table).values()))


def _those(offsets: list[int], which: Flags) -> list[int]:
    return [offset for offset, keep in zip(offsets, which.tolist(), strict=True) if keep]
