"""Flat JSON records to and from arrays: validated by generated structs, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from domain import topics
from domain.bars import AHEAD, BAR_COLUMNS, CLOSE, HIGH, LATE, LOW, OFF_GRID, OPEN, REPEATED, VOLUME
from domain.errors import BadRecord
from domain.events import NANOS_PER_SECOND, Bar, Prediction, Trade
from domain.features import FEATURES, TARGETS, ExampleRecord, VectorRecord
from domain.tables import BarTable, ExampleTable, Flags, Floats, TradeTable, VectorTable
from streaming.transport import Records

T = TypeVar("T")

encode = msgspec.json.Encoder().encode

_TRADE = msgspec.json.Decoder(Trade)
_BAR = msgspec.json.Decoder(Bar)
_VECTOR = msgspec.json.Decoder(VectorRecord)
_EXAMPLE = msgspec.json.Decoder(ExampleRecord)

_PREDICTION = msgspec.json.Decoder(Prediction)


class _Timed(msgspec.Struct):
    ts_event: int
    ts_available: int = 0


_TIMED = msgspec.json.Decoder(_Timed)
_D = len(FEATURES)
_AVAILABLE = 3 + _D  # in an example's row: offset, instrument, ts_event, the features, ts_available, horizon_s, targets

Row = tuple[Any, ...]
"""A record's offset and its fields in order, or its fields alone."""

LANDED: dict[str, type[msgspec.Struct]] = {
    topics.BARS: Bar,
    topics.FEATURES: VectorRecord,
    topics.FEATURES_WITH_TARGET: ExampleRecord,
    topics.PREDICTIONS: Prediction,
}
"""Records of the topics that rest in the lake."""
_LANDED = {topic: msgspec.json.Decoder(kind) for topic, kind in LANDED.items()}

UNKNOWN_TIME = 2**63 - 1
"""Later than any time."""

LARGEST = 1e8
"""Bound of a target, basis points: no ratio of two floats has a larger logarithm."""
_PRICES = "prices must be positive, low <= open and close <= high, volumes >= 0"
_FINITE = "a feature or target is not finite, or larger than any price could make it"
FATES = {
    LATE: ("late", "its bar is already closed"),
    OFF_GRID: ("grid", "its time is no multiple of the interval"),
    AHEAD: ("ahead", "its clock is further ahead than a gap is filled, and no others agree with it yet"),
    REPEATED: ("duplicate", "a trade of this id was counted before"),
}
"""Reason and words for what ``domain.bars`` refuses."""
Refuse = Callable[[Records, int, BadRecord], None]


def _rows(records: Records, decoder: msgspec.json.Decoder[Any], instrument: str, refuse: Refuse) -> list[Row]:
    """Return offset and fields of each record; one that fits no schema, or is of another instrument, is refused."""
    rows: list[Row] = []
    for i, value in enumerate(records.values):
        try:
            row = decoded(decoder, value)
        except BadRecord as error:
            refuse(records, i, error)
            continue
        if row.instrument != instrument:
            refuse(records, i, BadRecord("instrument", f"{row.instrument} in the partition of {instrument}"))
            continue
        rows.append((records.offsets[i], *msgspec.structs.astuple(row)))
    return rows


def decoded(decoder: msgspec.json.Decoder[T], value: bytes) -> T:
    """Return the record.

    Raises
    ------
    BadRecord
        When it is not JSON of its schema. That it is nested too deeply to be skipped is one of the ways.
    """
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord("schema", str(error)) from error


def trades(records: Records, instrument: str, refuse: Refuse) -> tuple[TradeTable, list[int]]:
    """Return the trades of a batch, with the place of each in it; bad prices and sizes are refused."""
    rows = []
    for row in _rows(records, _TRADE, instrument, refuse):
        _, _, _, _, price, size, _ = row
        if not (0.0 < price < math.inf and 0.0 < size < math.inf):
            refuse(
                records,
                records.offsets.index(row[0]),
                BadRecord("price", f"price {price} and size {size} must be positive and finite"),
            )
            continue
        rows.append(row)
    columns = list(zip(*rows, strict=True)) or [()] * 7
    table = TradeTable(
        np.array(columns[2], np.int64),
        np.array(columns[3], np.int64),
        np.array(columns[4], np.float64),
        np.array(columns[5], np.float64),
        np.array(columns[6], np.int8),
    )
    return table, list(columns[0])


def bars(records: Records, instrument: str, refuse: Refuse) -> tuple[BarTable, list[int]]:
    """Return the bars of a batch and their offsets; a bar that no market could make is refused."""
    rows = _rows(records, _BAR, instrument, refuse)
    values, fine = _good_bars(rows, records, refuse)
    ts = np.array([row[2] for row in rows], np.int64)
    return BarTable(ts[fine], values[fine]), _offsets(rows, fine)


def vectors(records: Records, instrument: str, refuse: Refuse) -> tuple[VectorTable, list[int]]:
    """Return the vectors of a batch and their offsets; a non-finite vector is refused."""
    rows = _rows(records, _VECTOR, instrument, refuse)
    values, fine = _good_vectors(rows, records, refuse)
    ts = np.array([row[2] for row in rows], np.int64)
    return VectorTable(ts[fine], values[fine]), _offsets(rows, fine)


def examples(records: Records, instrument: str, refuse: Refuse, horizon: int) -> tuple[ExampleTable, list[int]]:
    """Return the examples of a batch and their offsets; those of another horizon (ns), or not finite, are refused."""
    rows = _rows(records, _EXAMPLE, instrument, refuse)
    values, targets, fine = _good_examples(rows, records, refuse, horizon)
    ts, available = (np.array([row[c] for row in rows], np.int64) for c in (2, _AVAILABLE))
    return ExampleTable(ts[fine], available[fine], values[fine], targets[fine]), _offsets(rows, fine)


def landable(records: Records, instrument: str, refuse: Refuse, horizon: int) -> tuple[list[Row], list[int]]:
    """Return the fields of each record of a batch that may rest in the lake, and their offsets.

    Of topic ``bars``, ``features``, ``features_with_target`` or ``predictions``. What the decoders above refuse is
    refused here, by the same rules; so is a prediction whose id is not that of its time and horizon.
    """
    rows = _rows(records, _LANDED[records.topic], instrument, refuse)
    if records.topic == topics.BARS:
        _, fine = _good_bars(rows, records, refuse)
    elif records.topic == topics.FEATURES:
        _, fine = _good_vectors(rows, records, refuse)
    elif records.topic == topics.FEATURES_WITH_TARGET:
        _, _, fine = _good_examples(rows, records, refuse, horizon)
    else:
        horizon_s = horizon // NANOS_PER_SECOND
        named = np.array([row[1] == f"{row[2]}/{row[3]}/{horizon_s}" for row in rows], np.bool_)
        fine = _passing(named, rows, records, refuse, BadRecord("horizon", "its id is not that of its time"))
    return [row[1:] for row, good in zip(rows, fine.tolist(), strict=True) if good], _offsets(rows, fine)


def _good_bars(rows: list[Row], records: Records, refuse: Refuse) -> tuple[Floats, Flags]:
    values = np.array([row[3:] for row in rows], np.float64).reshape(len(rows), len(BAR_COLUMNS))
    opened, high, low, close = (values[:, c] for c in (OPEN, HIGH, LOW, CLOSE))
    ordered = (low <= np.minimum(opened, close)) & (high >= np.maximum(opened, close)) & (low > 0)
    sound: Flags = np.isfinite(values).all(axis=1) & ordered & (values[:, VOLUME:] >= 0).all(axis=1)
    return values, _passing(sound, rows, records, refuse, BadRecord("price", _PRICES))


def _good_vectors(rows: list[Row], records: Records, refuse: Refuse) -> tuple[Floats, Flags]:
    values = np.array([row[3:] for row in rows], np.float64).reshape(len(rows), _D)
    finite: Flags = np.logical_and.reduce(np.isfinite(values), axis=1)
    return values, _passing(finite, rows, records, refuse, BadRecord("finite", _FINITE))


def _good_examples(rows: list[Row], records: Records, refuse: Refuse, horizon: int) -> tuple[Floats, Floats, Flags]:
    values = np.array([row[3:_AVAILABLE] for row in rows], np.float64).reshape(len(rows), _D)
    targets = np.array(
        [[math.nan if y is None else y for y in row[_AVAILABLE + 2 :]] for row in rows], np.float64
    ).reshape(len(rows), len(TARGETS))  # fmt: skip
    # Out of reach counts as not finite; a direction that is NaN is no move, which is fine.
    reached = np.where(np.abs(targets) > LARGEST, math.inf, targets)
    reached[:, 1] = np.where(np.isnan(reached[:, 1]), 0.0, reached[:, 1])
    asked = np.array(
        [row[_AVAILABLE] - row[2] == horizon and row[_AVAILABLE + 1] == horizon // NANOS_PER_SECOND for row in rows],
        np.bool_,
    )
    finite = np.isfinite(values).all(axis=1) & np.isfinite(reached).all(axis=1)
    fine = _passing(asked, rows, records, refuse, BadRecord("horizon", "its targets lie elsewhere than asked"))
    fine &= _passing(finite | ~asked, rows, records, refuse, BadRecord("finite", _FINITE))
    return values, targets, fine


def _passing(fine: Flags, rows: list[Row], records: Records, refuse: Refuse, error: BadRecord) -> Flags:
    for i in np.flatnonzero(~fine):
        refuse(records, records.offsets.index(rows[i][0]), error)
    return fine


def _offsets(rows: list[Row], fine: Flags) -> list[int]:
    return [row[0] for row, good in zip(rows, fine.tolist(), strict=True) if good]


def encode_trades(events: Sequence[Trade]) -> list[bytes]:
    """Return trades as records."""
    return [encode(event) for event in events]


def encode_bars(instrument: str, table: BarTable) -> list[bytes]:
    """Return bars as records of topic ``bars``."""
    return [encode(Bar(instrument, ts, *row)) for ts, row in zip(table.ts.tolist(), table.values.tolist(), strict=True)]


def encode_vectors(instrument: str, table: VectorTable) -> list[bytes]:
    """Return vectors as records of topic ``features``."""
    pairs = zip(table.ts.tolist(), table.values.tolist(), strict=True)
    return [encode(VectorRecord(instrument, ts, *row)) for ts, row in pairs]


def encode_examples(instrument: str, table: ExampleTable, horizon_s: int) -> list[bytes]:
    """Return examples as records of topic ``features_with_target``."""
    out = []
    rows = zip(table.ts.tolist(), table.available.tolist(), table.values.tolist(), table.targets.tolist(), strict=True)
    for ts, available, x, (change, direction, volatility) in rows:
        up = None if math.isnan(direction) else direction
        out.append(encode(ExampleRecord(instrument, ts, *x, available, horizon_s, change, up, volatility)))
    return out


def prediction(value: bytes) -> Prediction:
    """Return one record of topic ``predictions``; raises ``BadRecord`` for any other."""
    return decoded(_PREDICTION, value)


def bar(value: bytes) -> Bar:
    """Return one record of topic ``bars``; raises ``BadRecord`` for any other."""
    return decoded(_BAR, value)


def trade(value: bytes) -> Trade:
    """Return one record of topic ``trades``; raises ``BadRecord`` for any other."""
    return decoded(_TRADE, value)


def is_followed(value: bytes, watermark: int) -> bool:
    """Return whether a line that stands at ``watermark`` (ns) has followed this vector or example.

    What is neither was refused when it was read, so it counts as followed.
    """
    try:
        record = decoded(_TIMED, value)
    except BadRecord:
        return True
    return max(record.ts_event, record.ts_available) <= watermark


def event_time(value: bytes) -> int:
    """Return a record's ``ts_event``, ns; ``UNKNOWN_TIME`` when it has none, so that a search never skips past it."""
    try:
        return decoded(_TIMED, value).ts_event
    except BadRecord:
        return UNKNOWN_TIME
