"""The predictor: answers each vector with the newest version of the champion line, and swaps between two records.

A version that a person holds serves instead, whatever is published. Who serves is looked up once a second and whenever
a version is announced.

Predictions go to their topic, to the HTTP API and to the event stream. Their ids are deterministic, so what a crash
repeats adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import structlog

from domain.checkpoint import Checkpoint
from domain.errors import ArtifactRefused, BadRecord, BadState
from domain.events import Prediction
from domain.fleet import Line
from domain.tables import Floats, VectorTable
from domain.topics import FEATURES, MODEL_VERSIONS, PREDICTIONS
from streaming import codec
from streaming.app import Context, Pulse
from streaming.dead_letters import DeadLetters
from streaming.gate import Gate, newest_in_order, unconfirmed
from streaming.seam import newest_good
from streaming.serving import Board, Server
from streaming.transport import Key, Records, find, values_between
from warehouse.roles import Cast
from warehouse.versions import Version

LOOK_BACK = 256
"""Records looked at before the one that bisection found."""

LOOK_S = 1.0
"""Seconds between two looks at who serves: a rollback is to be felt at once, in a quiet market too."""


@dataclass
class _Served:
    """The version that serves a line, the newest vector it has answered, and those that a former self did beyond it."""

    line: Line
    number: int
    cast: Cast
    gate: Gate[VectorTable]
    answered: int
    already: frozenset[int]


class Predictor:
    """Consumes ``features`` and ``model_versions``, produces ``predictions`` and serves them.

    Parameters
    ----------
    board : where predictions are shown
    server : shows the board to others while the predictor is open; None where nobody looks
    """

    name = "predictor"
    finished = False

    def __init__(self, context: Context, board: Board, server: Server | None = None) -> None:
        self._context, self._project = context, context.project
        self._served: dict[int, _Served] = {}
        self._log = structlog.get_logger().bind(service=self.name)
        self._board, self._server = board, server
        self._count = 0

    def open(self) -> None:
        """Load each line's newest good version and continue after the newest prediction on the topic."""
        context, count = self._context, len(self._project.instruments)
        self._looked = context.clock.monotonic()
        casts = context.roles.all(self._project.instruments)
        logs = context.transport.ends([(t, p) for t in (FEATURES, MODEL_VERSIONS) for p in range(count)])
        start: dict[Key, int] = {}
        for partition, instrument in enumerate(self._project.instruments):
            version, checkpoint = self._chosen(casts[instrument])
            last = newest_in_order(
                context.transport, context.clock, (PREDICTIONS, partition), codec.prediction, self._project.interval
            )
            answered = last.ts_event if last else checkpoint.line.since
            gate: Gate[VectorTable] = Gate(answered, self._project.interval, self._refuse)
            # In a topic made anew the first answers are too few to go by, and yet must not be given again.
            already = unconfirmed(
                context.transport, context.clock, (PREDICTIONS, partition), codec.prediction, answered
            )
            self._served[partition] = _Served(
                checkpoint.line, version.number, casts[instrument], gate, answered, already
            )
            low, _ = logs[FEATURES, partition]
            start[FEATURES, partition] = self._resume(partition, answered, low)
            # What was announced before this moment is already loaded.
            start[MODEL_VERSIONS, partition] = logs[MODEL_VERSIONS, partition][1]
        self._reader = context.transport.reader(self.name, start)
        self._writer = context.transport.writer(linger_ms=0)
        self._dead = DeadLetters(self.name, context.control, self._writer)
        if self._server is not None:
            self._server.start()

    def work(self, wait_s: float) -> int:
        """Answer what has arrived, then look whether a newer version does."""
        handled = 0
        batches = self._reader.poll(wait_s)
        for records in batches:
            if records.topic == FEATURES:
                instrument = self._project.instruments[records.partition]
                gate = self._served[records.partition].gate
                table, _ = gate.admit(*codec.vectors(records, instrument, self._refuse), records)
                self._answer(records.partition, instrument, table)
            handled += len(records.offsets)
        self._refresh({records.partition for records in batches if records.topic == MODEL_VERSIONS})
        return handled

    def save(self) -> None:
        """Flush; the predictions on the topic are the checkpoint."""
        self._dead.save()
        self._writer.flush()
        self._reader.mirror()

    def pulse(self) -> Pulse:
        """Say where the predictor stands."""
        names, lag = self._project.instruments, self._reader.lag()
        pulse = Pulse(
            position={f"{t}/{p}": offset for (t, p), offset in self._reader.position.items()},
            progress=sum(self._reader.position.values()),
            lag=lag,
            ready=bool(self._served) and lag is not None,  # behind a silent broker its answers grow old
            detail={
                "version": {names[p]: s.number for p, s in self._served.items()},
                "line": {names[p]: s.line.name for p, s in self._served.items()},
                "held": [names[p] for p, s in self._served.items() if s.cast.held is not None],
                "predictions": self._count,
                "dead_letters": self._dead.totals,
                "repeated": sum(s.gate.repeated for s in self._served.values()),
                "watermark": max(s.answered for s in self._served.values()),
                "url": self._server.url if self._server is not None else "",
            },
        )
        self._board.pulse = pulse
        self._board.turned = self._context.clock.monotonic()
        return pulse

    def close(self, *, clean: bool) -> None:  # noqa: ARG002 - nothing is kept back here
        """Stop serving and leave the broker."""
        if self._server is not None:
            self._server.stop()
        if hasattr(self, "_reader"):
            self._reader.close()

    def _resume(self, partition: int, answered: int, low: int) -> int:
        """Return the offset of the first vector newer than the newest answered one, or the start of the log."""
        transport, clock, key = self._context.transport, self._context.clock, (FEATURES, partition)
        found = find(transport, clock, key, low, lambda value: codec.event_time(value) > answered)
        # An old record that somebody sent late misleads the bisection past what is new: look at what lies before.
        while found > low:
            start = max(low, found - LOOK_BACK)
            values = values_between(transport, clock, key, start, found)
            if not any(answered < codec.event_time(value) < codec.UNKNOWN_TIME for value in values):
                break
            found = start
        return found

    def _refuse(self, records: Records, i: int, error: BadRecord) -> None:
        self._dead.refuse(records, i, error)

    def _answer(self, partition: int, instrument: str, table: VectorTable) -> None:
        served = self._served[partition]
        fresh = ~np.isin(table.ts, list(served.already)) if served.already else slice(None)
        ts, x = table.ts[fresh], table.values[fresh]
        if not len(ts):
            return
        predicted = served.line.predict(x)
        if not np.isfinite(predicted).all():
            raise BadState(f"{instrument}: version {served.number} predicts a non-finite value; roll it back")
        answers = self._predictions(instrument, served, ts.tolist(), predicted)
        self._writer.send(PREDICTIONS, partition, instrument, [codec.encode(answer) for answer in answers])
        served.answered = int(ts[-1])
        self._count += len(answers)
        self._board.show(answers)

    def _predictions(self, instrument: str, served: _Served, ts: list[int], predicted: Floats) -> list[Prediction]:
        now, horizon_s, line = self._context.clock.time_ns(), self._project.horizon_s, served.line
        return [
            Prediction(
                prediction_id=f"{instrument}/{t}/{horizon_s}",
                instrument=instrument,
                ts_event=t,
                horizon_s=horizon_s,
                price_change=change,
                direction=direction,
                volatility=volatility,
                model_version=served.number,
                n_learned=line.n_learned,
                model_watermark=line.watermark,
                predicted_at=now,
            )
            for t, (change, direction, volatility) in zip(ts, predicted.tolist(), strict=True)
        ]

    def _refresh(self, announced: set[int]) -> None:
        """Serve what is to serve by now, where a version was announced or a second has passed."""
        now = self._context.clock.monotonic()
        if not announced and now - self._looked < LOOK_S:
            return
        self._looked = now
        casts = self._context.roles.all(self._project.instruments)
        for partition, instrument in enumerate(self._project.instruments):
            served, cast = self._served[partition], casts[instrument]
            if partition in announced or cast.id != served.cast.id:
                self._swap(served, cast)

    def _swap(self, served: _Served, cast: Cast) -> None:
        registry, decided = self._context.registry, cast.id != served.cast.id
        served.cast = cast
        if not decided:
            newest = registry.newest(cast.champion)
            if cast.held is not None or (newest is not None and newest.number == served.number):
                return
        try:
            version, checkpoint = self._chosen(cast)
        except ArtifactRefused as error:
            self._log.error("keeping the version that serves", line=cast.champion, reason=str(error))
            return
        if not decided and version.line == served.line.name and version.number <= served.number:
            return  # what is newer does not load
        if decided and version.number != served.number:
            words = {"action": cast.action, "reason": cast.reason, "was": served.number}
            self._log.info("serving by decision", line=version.line, version=version.number, **words)
        served.line, served.number = checkpoint.line, version.number

    def _chosen(self, cast: Cast) -> tuple[Version, Checkpoint]:
        """Return the version that is to serve; where a held one does not load, the newest good one before it."""
        registry = self._context.registry
        first = None if cast.held is None else registry.find(cast.instrument, cast.held)
        return newest_good(registry, cast.champion if first is None else first.line, self.name, first)
