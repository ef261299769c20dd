"""The lander: the one process that lands topics in the lake, rows and offsets in one transaction.

The offset in the lake is the only truth, so a crash neither loses a row nor lands one twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from domain.errors import BadRecord
from domain.tables import Ints
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS
from streaming import codec
from streaming.app import Context, Pulse
from streaming.codec import is_followed
from streaming.dead_letters import DeadLetters
from streaming.gate import Gate
from streaming.joint import Joint
from streaming.seam import seam_of
from streaming.transport import Key, Logs, Records
from warehouse.features import count
from warehouse.landing import Batch, Landed, all_landed, land, realign
from warehouse.maintenance import tidy
from warehouse.tables import TIME, fields_to_rows

TABLES = {BARS: "bars", FEATURES: "features", FEATURES_WITH_TARGET: "examples", PREDICTIONS: "predictions"}
_FIELDS = {topic: kind.__struct_fields__ for topic, kind in codec.LANDED.items()}

COMMIT_S = 2.0
"""Seconds between commits: each one is a snapshot and a file a table, so not too often."""

COMMIT_ROWS = 100_000
"""Rows after which a commit does not wait any longer."""

TIDY_S = 120.0
"""Seconds between merges of the small files that the commits leave."""


@dataclass(frozen=True)
class _Arrived:
    """Records by the time that orders their table, ns."""

    ts: Ints
    rows: npt.NDArray[np.object_]


def _arrived(topic: str, rows: list[codec.Row]) -> _Arrived:
    column = _FIELDS[topic].index(TIME[TABLES[topic]])
    ts = np.array([row[column] for row in rows], np.int64)
    return _Arrived(ts, np.fromiter(rows, np.object_, len(rows)))


class Lander:
    """Consumes ``bars``, ``features``, ``features_with_target`` and ``predictions``, writes the lake."""

    name = "lander"
    finished = False

    def __init__(self, context: Context) -> None:
        self._context, self._project = context, context.project
        self._log = structlog.get_logger().bind(service=self.name)
        self._waiting: dict[Key, tuple[list[codec.Row], list[int]]] = {}
        self._gates: dict[Key, Gate[_Arrived]] = {}
        self._rows = 0
        self._landed = dict.fromkeys(TABLES.values(), 0)
        self._committed = self._tidied = context.clock.monotonic()

    def open(self) -> None:
        """Open the lake and seek to what it has landed."""
        context, lines = self._context, len(self._project.instruments)
        self._lake = context.open_lake()
        self._floors = [seam_of(context.registry, instrument) for instrument in self._project.instruments]
        self._logs, done = Logs(context.transport, context.clock, TABLES, lines), all_landed(self._lake)
        start = {key: self._resume(key, done.get(key)) for key in ((t, p) for t in TABLES for p in range(lines))}
        for key, offset in start.items():
            newest = done[key].last_ts if key in done else self._floors[key[1]]
            self._gates[key] = Gate(newest, self._project.interval, self._refuse, self._joint(key, newest, offset))
        self._reader = context.transport.reader(self.name, start)
        self._writer = context.transport.writer()
        self._dead = DeadLetters(self.name, context.control, self._writer)

    def work(self, wait_s: float) -> int:
        """Collect what has arrived, and commit when enough has or enough time has passed."""
        handled = 0
        for records in self._reader.poll(wait_s):
            self._collect(records)
            handled += len(records.offsets)
        if self._rows >= COMMIT_ROWS or (
            self._waiting and self._context.clock.monotonic() - self._committed >= COMMIT_S
        ):
            self._commit()
        if self._context.clock.monotonic() - self._tidied >= TIDY_S:
            tidy(self._lake, self._context.control)
            self._tidied = self._context.clock.monotonic()
        return handled

    def save(self) -> None:
        """Count what was refused; rows are saved by their own commits."""
        self._logs.check()
        self._dead.save()

    def pulse(self) -> Pulse:
        """Say where the lander stands: landed, not merely read."""
        waiting = {key: offsets[0] for key, (_, offsets) in self._waiting.items() if offsets}
        position = {f"{t}/{p}": waiting.get((t, p), offset) for (t, p), offset in self._reader.position.items()}
        lag = self._reader.lag()
        return Pulse(
            position=position,
            progress=sum(position.values()),
            lag=None if lag is None else lag + self._rows,
            ready=True,
            detail={
                "dead_letters": self._dead.totals,
                "repeated": sum(gate.repeated for gate in self._gates.values()),
                **{f"landed_{table}": n for table, n in self._landed.items()},
            },
        )

    def close(self, *, clean: bool) -> None:
        """Commit what is left and leave."""
        if not hasattr(self, "_reader"):
            return
        try:
            if clean:
                self._commit()
        finally:
            self._reader.close()
            self._lake.close()

    def _resume(self, key: Key, done: Landed | None) -> int:
        """Return where to read on; in another log than the lake's its start: what is not newer does not land again."""
        offset, log, last = (done.next_offset, done.log, done.last_ts) if done else (None, None, 0)
        start, why = self._logs.resume(key, offset, log, lambda value: is_followed(value, last))
        if why:
            self._log.error("resuming by watermark", topic=key[0], partition=key[1], offset=start, reason=why)
            realign(self._lake, {key: (start, self._logs.identities[key[0]])})
        return start

    def _refuse(self, records: Records, i: int, error: BadRecord) -> None:
        self._dead.refuse(records, i, error)

    def _joint(self, key: Key, newest: int, start: int) -> Joint:
        topic, partition = key
        instrument = self._project.instruments[partition]
        # Predictions may have holes: nobody makes again what a deleted topic took along before it was answered.
        gone = topic == PREDICTIONS or self._logs.has_lost(key, start)
        gone = gone or not count(self._lake, TABLES[topic], instrument, newest - 1, newest)
        return Joint(f"{topic}/{partition}", newest, self._project.interval, open_ended=gone)

    def _collect(self, records: Records) -> None:
        key, instrument = (records.topic, records.partition), self._project.instruments[records.partition]
        found, at = codec.landable(records, instrument, self._refuse, self._project.horizon)
        passing, offsets = self._gates[key].admit(_arrived(records.topic, found), at, records)
        rows, waiting = self._waiting.setdefault(key, ([], []))
        rows += passing.rows.tolist()
        waiting += offsets
        self._rows += len(records.offsets)

    def _commit(self) -> None:
        if not self._waiting:
            return
        # A refused record is skipped for good by this commit: its letter must be safe before.
        self._dead.save()
        self._logs.check(surely=True)
        batches = [
            Batch(
                table=TABLES[topic],
                topic=topic,
                partition=partition,
                rows=fields_to_rows(TABLES[topic], _FIELDS[topic], rows, offsets),
                next_offset=self._gates[topic, partition].resume(self._reader.position[topic, partition]),
                floor=self._floors[partition],
                log=self._logs.identities[topic],
            )
            for (topic, partition), (rows, offsets) in self._waiting.items()
        ]
        for batch, n in zip(batches, land(self._lake, batches), strict=True):
            self._landed[batch.table] += n
        self._waiting.clear()
        self._rows, self._committed = 0, self._context.clock.monotonic()
