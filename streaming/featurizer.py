"""The featurizer: trades or bars in, feature vectors out, and one horizon later the same vectors with their targets.

Its state is arrays and the input offset they stand at, one file an instrument. After a crash it repeats what it sent
since the last save; its readers drop what is not newer, so its output is effectively once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from domain.bars import TAKEN, BarState, add_trades
from domain.errors import BadRecord
from domain.features import WINDOW
from domain.pipeline import Pipeline, lead
from domain.tables import BarTable
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET
from streaming import codec
from streaming.app import Context, Pulse
from streaming.dead_letters import DeadLetters
from streaming.gate import Gate
from streaming.seam import safe_point
from streaming.transport import Key, Logs, Records
from warehouse.features import newest_bar, read_table
from warehouse.files import remove, write_atomic

FORMAT = 3
"""Of the state file: a file of another layout is not read, the featurizer warms from the lake."""


@dataclass
class _Works:
    """One instrument's state: open bars, the window, and where its input continues."""

    bars: BarState
    pipeline: Pipeline
    gate: Gate[BarTable]
    offset: int


class Featurizer:
    """Consumes ``trades`` (or ``bars``), produces ``bars``, ``features`` and ``features_with_target``."""

    name = "featurizer"
    finished = False

    def __init__(self, context: Context, source_topic: str) -> None:
        self._context, self._project = context, context.project
        self._topic = source_topic
        self._works: dict[int, _Works] = {}
        self._log = structlog.get_logger().bind(service=self.name)
        self._counts = {BARS: 0, FEATURES: 0, FEATURES_WITH_TARGET: 0}
        self._outputs = tuple(topic for topic in self._counts if topic != source_topic)

    def open(self) -> None:
        """Take up each instrument where its file stands, or warm it from the lake at the seam."""
        instruments, transport = self._project.instruments, self._context.transport
        topics = (self._topic, *self._outputs)
        self._logs = Logs(transport, self._context.clock, topics, len(instruments))
        start: dict[Key, int] = {}
        for partition, instrument in enumerate(instruments):
            key = self._topic, partition
            works = self._load(instrument, partition)
            if works is None and self._logs.end(key) > self._logs.low(key):
                works = self._warm(instrument, partition)
            start[key] = works.offset if works else self._logs.low(key)
            if works:
                self._works[partition] = works
        self._reader = transport.reader(self.name, start)
        self._writer = transport.writer()
        self._dead = DeadLetters(self.name, self._context.control, self._writer)

    def work(self, wait_s: float) -> int:
        """Turn what has arrived into bars, vectors and examples."""
        handled = 0
        for records in self._reader.poll(wait_s):
            instrument = self._project.instruments[records.partition]
            works = self._works.get(records.partition)
            if works is None:
                # Ingest sends from where the safe point was when it opened: warmed before it, we would miss some.
                works = self._works[records.partition] = self._warm(instrument, records.partition)
            bars = self._bars(records, instrument, works)
            vectors, examples = works.pipeline.extend(bars)
            works.offset = works.gate.resume(records.offsets[-1] + 1)
            self._send(FEATURES, records.partition, instrument, codec.encode_vectors(instrument, vectors))
            labelled = codec.encode_examples(instrument, examples, self._project.horizon_s)
            self._send(FEATURES_WITH_TARGET, records.partition, instrument, labelled)
            handled += len(records.offsets)
        return handled

    def save(self) -> None:
        """Flush the outputs, then write each instrument's state."""
        self._logs.check()
        self._dead.save()
        self._writer.flush()
        count = len(self._project.instruments)
        ends = self._context.transport.ends([(topic, p) for topic in self._outputs for p in range(count)])
        for partition, works in self._works.items():
            instrument = self._project.instruments[partition]
            manifest = {
                "offset": works.offset,
                "logs": self._logs.identities,
                "sent": {topic: ends[topic, partition][1] for topic in self._outputs},
                "made_for": self._made_for(),
            }
            arrays = {
                "ints": works.bars.ints,
                "floats": works.bars.floats,
                "ts": works.pipeline.tail.ts,
                "values": works.pipeline.tail.values,
            }
            manifest["seal"] = _seal(manifest, arrays)
            write_atomic(self._path(instrument), save(arrays, metadata={"manifest": json.dumps(manifest)}))
        self._reader.mirror()

    def pulse(self) -> Pulse:
        """Say where the featurizer stands."""
        return Pulse(
            position={f"{t}/{p}": offset for (t, p), offset in self._reader.position.items()},
            progress=sum(self._reader.position.values()),
            lag=self._reader.lag(),
            ready=len(self._works) == len(self._project.instruments)
            and all(len(works.pipeline.tail) > WINDOW for works in self._works.values()),
            detail={
                "watermark": max((works.pipeline.newest for works in self._works.values()), default=0),
                "dead_letters": self._dead.totals,
                "repeated": sum(works.gate.repeated for works in self._works.values()),
                **{f"sent_{topic}": n for topic, n in self._counts.items()},
            },
        )

    def close(self, *, clean: bool) -> None:  # noqa: ARG002 - nothing is kept back here
        """Leave the broker."""
        if hasattr(self, "_reader"):
            self._reader.close()

    def _bars(self, records: Records, instrument: str, works: _Works) -> BarTable:
        if self._topic == BARS:
            return works.gate.admit(*codec.bars(records, instrument, self._refuse), records)[0]
        trades, offsets = codec.trades(records, instrument, self._refuse)
        bars, fates = add_trades(works.bars, trades, self._project.interval, self._project.lateness)
        for offset, fate in zip(offsets, fates.tolist(), strict=True):
            if fate != TAKEN:
                self._refuse(records, records.offsets.index(offset), BadRecord(*codec.FATES[fate]))
        self._send(BARS, records.partition, instrument, codec.encode_bars(instrument, bars))
        return bars

    def _refuse(self, records: Records, i: int, error: BadRecord) -> None:
        self._dead.refuse(records, i, error)

    def _send(self, topic: str, partition: int, key: str, values: list[bytes]) -> None:
        self._writer.send(topic, partition, key, values)
        self._counts[topic] += len(values)

    def _path(self, instrument: str) -> Path:
        return self._context.places.state / "featurizer" / f"{instrument.replace(':', '__')}.safetensors"

    def _made_for(self) -> list[object]:
        p = self._project
        return [FORMAT, self._topic, p.interval, p.lateness, p.horizon, WINDOW]

    def _load(self, instrument: str, partition: int) -> _Works | None:
        try:
            data = self._path(instrument).read_bytes()
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            manifest = json.loads(header["__metadata__"]["manifest"])
            sealed = manifest.pop("seal") == _seal(manifest, arrays)
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("state is damaged; warming from the lake", instrument=instrument, error=str(error))
            return None
        if not sealed:
            self._log.warning("state is not what was sealed; warming from the lake", instrument=instrument)
            return None
        if manifest["made_for"] != self._made_for():
            self._log.warning("state is for other settings; warming from the lake", instrument=instrument)
            return None
        offset = int(manifest["offset"])
        if not self._whole(instrument, partition, manifest["logs"], {self._topic: offset} | manifest["sent"]):
            return None
        tail = BarTable(arrays["ts"].copy(), arrays["values"].copy())
        return self._works_of(BarState(arrays["ints"].copy(), arrays["floats"].copy()), tail, offset)

    def _works_of(self, bars: BarState, tail: BarTable, offset: int) -> _Works:
        pipeline = Pipeline(self._project.interval, self._project.horizon, tail)
        return _Works(bars, pipeline, Gate(pipeline.newest, self._project.interval, self._refuse), offset)

    def _whole(self, instrument: str, partition: int, logs: dict[str, str], offsets: dict[str, int]) -> bool:
        """Return whether what was read and what was sent is still where it was, or has merely expired there.

        What was sent and is gone may not have reached its readers: it is made again from the safe point.
        """
        for topic, offset in offsets.items():
            key = topic, partition
            # What was sent may have expired: its readers have had their time.
            at = offset if topic == self._topic else max(offset, self._logs.low(key))
            _, why = self._logs.resume(key, at, logs.get(topic), lambda _: True)
            if why:
                self._log.error("warming from the lake", instrument=instrument, topic=topic, reason=why)
                return False
        return True

    def _warm(self, instrument: str, partition: int) -> _Works:
        """Return the state as it stands at the safe point: the lake's last bars before it, the topic from its start."""
        p = self._project
        # Not to be taken up by a later start: once the topics have grown again, it would look whole.
        remove(self._path(instrument))
        with self._context.open_lake(read_only=True) as lake:
            watermark = safe_point(self._context.registry, lake, self._context.roles.of(instrument), partition)
            start = watermark - lead(p.horizon, p.interval) * p.interval
            bars = read_table(lake, "bars", instrument, start, watermark)
            newest = newest_bar(lake, instrument, watermark)
        state = BarState.empty(p.interval, p.lateness)
        if newest is not None:
            ts, close = newest
            last = int(bars.ts[-1]) if len(bars) else ts
            state = BarState.after(last, close, p.interval, p.lateness, ts)
        self._log.info("warmed from the lake", instrument=instrument, bars=len(bars), watermark=watermark)
        return self._works_of(state, bars, self._logs.low((self._topic, partition)))


def _seal(manifest: Mapping[str, object], arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return a sha256 of all that the state says: a flipped bit in a price would be learned as one."""
    sha = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"|{name}:{array.dtype.str}{array.shape}:".encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
