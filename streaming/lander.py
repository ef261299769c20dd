"""The lander: the one process that lands topics in the lake, rows and offsets in one transaction.

The offset in the lake is the only truth, so a crash neither loses a row nor lands one twice.
"""

from __future__ import annotations

import time

import msgspec
import structlog

from domain.errors import BadRecord
from domain.events import Bar, Prediction
from domain.features import ExampleRecord, VectorRecord
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS
from streaming.app import Context, DeadLetters, Pulse
from streaming.kafka import Reader, Records, Writer, ends
from streaming.seam import seam_of
from warehouse.lake import Lake
from warehouse.landing import Batch, all_landed, land
from warehouse.maintenance import tidy
from warehouse.tables import records_to_rows

TABLES = {BARS: "bars", FEATURES: "features", FEATURES_WITH_TARGET: "examples", PREDICTIONS: "predictions"}
_KINDS = {BARS: Bar, FEATURES: VectorRecord, FEATURES_WITH_TARGET: ExampleRecord, PREDICTIONS: Prediction}

COMMIT_S = 2.0
"""Seconds between commits: each one is a snapshot and a file a table, so not too often."""

COMMIT_ROWS = 100_000
"""Rows after which a commit does not wait any longer."""

TIDY_S = 120.0
"""Seconds between merges of the small files that the commits leave."""


class Lander:
    """Consumes ``bars``, ``features``, ``features_with_target`` and ``predictions``, writes the lake."""

    name = "lander"
    finished = False

    def __init__(self, context: Context) -> None:
        self._context, self._project = context, context.project
        self._decoders = {topic: msgspec.json.Decoder(kind) for topic, kind in _KINDS.items()}
        self._log = structlog.get_logger().bind(service=self.name)
        self._waiting: dict[tuple[str, int], tuple[list[object], list[int]]] = {}
        self._rows = 0
        self._landed = dict.fromkeys(TABLES.values(), 0)
        self._committed = self._tidied = time.monotonic()

    def open(self) -> None:
        """Open the lake and seek to what it has landed."""
        context, count = self._context, len(self._project.instruments)
        self._lake = Lake.open(context.places)
        self._floors = [seam_of(context.registry, instrument) for instrument in self._project.instruments]
        keys = [(topic, p) for topic in TABLES for p in range(count)]
        logs, done = ends(context.places, keys), all_landed(self._lake)
        start = {}
        for key in keys:
            low, high = logs[key]
            offset = done[key].next_offset if key in done else low
            start[key] = offset if low <= offset <= high else low
        self._reader = Reader(context.places, self.name, start)
        self._dead = DeadLetters(self.name, context.control, Writer(context.places))

    def work(self, wait_s: float) -> int:
        """Collect what has arrived, and commit when enough has or enough time has passed."""
        handled = 0
        for records in self._reader.poll(wait_s):
            self._collect(records)
            handled += len(records.offsets)
        if self._rows >= COMMIT_ROWS or (self._waiting and time.monotonic() - self._committed >= COMMIT_S):
            self._commit()
        if time.monotonic() - self._tidied >= TIDY_S:
            tidy(self._lake, self._context.control)
            self._tidied = time.monotonic()
        return handled

    def save(self) -> None:
        """Count what was refused; rows are saved by their own commits."""
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
            detail={f"landed_{table}": n for table, n in self._landed.items()},
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

    def _collect(self, records: Records) -> None:
        decoder, instrument = self._decoders[records.topic], self._project.instruments[records.partition]
        rows, offsets = self._waiting.setdefault((records.topic, records.partition), ([], []))
        for i, value in enumerate(records.values):
            try:
                record = decoder.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._dead.refuse(records, i, BadRecord("schema", str(error)))
                continue
            if record.instrument != instrument:
                self._dead.refuse(records, i, BadRecord("instrument", f"{record.instrument} is not {instrument}"))
                continue
            rows.append(record)
            offsets.append(records.offsets[i])
        self._rows += len(records.offsets)

    def _commit(self) -> None:
        if not self._waiting:
            return
        batches = [
            Batch(
                table=TABLES[topic],
                topic=topic,
                partition=partition,
                rows=records_to_rows(TABLES[topic], rows, offsets),
                next_offset=self._reader.position[topic, partition],
                floor=self._floors[partition],
            )
            for (topic, partition), (rows, offsets) in self._waiting.items()
        ]
        for batch, n in zip(batches, land(self._lake, batches), strict=True):
            self._landed[batch.table] += n
        self._waiting.clear()
        self._rows, self._committed = 0, time.monotonic()
