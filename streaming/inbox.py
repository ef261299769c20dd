"""Rows of one topic that have passed the gate and wait for their turn, with the offset where a restart must read on."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

import numpy as np

from domain.features import FEATURES, TARGETS
from domain.tables import ExampleTable, Flags, Ints, VectorTable

T = TypeVar("T", VectorTable, ExampleTable)


def _time(table: VectorTable | ExampleTable) -> Ints:
    return table.available if isinstance(table, ExampleTable) else table.ts


class Inbox(Generic[T]):
    """Keeps rows in the order in which they pass the gate: each once, each newer than the one before.

    Attributes
    ----------
    table : rows that wait
    next_offset : int
        Offset of the first row that waits, or of the next record when none does.
    """

    def __init__(self, empty: T) -> None:
        self.table: T = empty
        self.next_offset = 0
        self._offsets = np.empty(0, np.int64)
        self._read = 0

    @classmethod
    def of_vectors(cls) -> Inbox[VectorTable]:
        """Return an empty inbox for vectors."""
        return Inbox(VectorTable(np.empty(0, np.int64), np.empty((0, len(FEATURES)))))

    @classmethod
    def of_examples(cls) -> Inbox[ExampleTable]:
        """Return an empty inbox for examples."""
        none = np.empty(0, np.int64)
        return Inbox(ExampleTable(none, none, np.empty((0, len(FEATURES))), np.empty((0, len(TARGETS)))))

    def add(self, table: T, offsets: list[int], next_offset: int) -> None:
        """Add rows with their offsets; ``next_offset`` is the one after the last record read."""
        pairs = zip(vars(self.table).values(), vars(table).values(), strict=True)
        self.table = type(table)(*(np.concatenate(pair) for pair in pairs))
        self._offsets = np.concatenate([self._offsets, np.array(offsets, np.int64)])
        self._read = next_offset
        self._move()

    def take(self, until: int) -> T:
        """Return the rows up to ``until`` (ns) and stop keeping them."""
        due = _time(self.table) <= until
        taken = _pick(self.table, due)
        self.table, self._offsets = _pick(self.table, ~due), self._offsets[~due]
        self._move()
        return taken

    def start_at(self, offset: int) -> Self:
        """Note where reading starts, before anything has arrived."""
        self.next_offset = self._read = offset
        return self

    def _move(self) -> None:
        self.next_offset = int(self._offsets[0]) if len(self._offsets) else self._read


def _pick(table: T, which: Flags) -> T:
    return type(table)(*(column[which] for column in vars(table).values()))
