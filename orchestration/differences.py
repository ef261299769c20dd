"""What two replays of the same data left behind, compared row by row: the first difference is named, none is allowed.

Equal must be, between an undisturbed and a disturbed run:

=========== ==========================================================================================================
bars, ...   tables ``bars``, ``features`` and ``examples``: every row, every column, every bit
predictions which rows there are (id, instrument, time, horizon). When a vector was answered, and so by which version,
            is the machine's affair; but each answer must be, bit for bit, what the version it names says of its vector
versions    kind, watermark, examples learned and digest of each, from the first to the newest, each the parent of the
            next; beside this chain there may be damaged ones only
counts      examples learned = rows of ``examples`` of the line; dead letters
=========== ==========================================================================================================
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from domain.config import Places, Project
from domain.errors import ArtifactRefused
from domain.features import TARGETS
from warehouse.control import Control
from warehouse.features import read_table
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.registry import Registry
from warehouse.tables import SCHEMAS, TIME
from warehouse.versions import Version

KEYS = ("prediction_id", "instrument", "ts_event", "horizon_s")
_EVER = 2**62

Bits = npt.NDArray[np.int64]


@dataclass
class Verdict:
    """How a disturbed run differs from an undisturbed one.

    Attributes
    ----------
    rows : of the disturbed run, by table
    lost, doubled : rows that only the undisturbed run has, and rows that are there too often
    answers : predictions held against the version they name; ``unheld`` of versions that are no longer loadable
    learned : examples learned in all
    digests : (undisturbed, disturbed) by line
    differences : each in one line, the first of each kind
    """

    rows: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    answers: int = 0
    unheld: int = 0
    learned: int = 0
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def compare(undisturbed: Places, disturbed: Places, project: Project) -> Verdict:
    """Return how what rests in two homes differs."""
    verdict = Verdict()
    with Control.of(undisturbed) as before, Control.of(disturbed) as after:
        with Lake.open(undisturbed, read_only=True) as first, Lake.open(disturbed, read_only=True) as second:
            for table in SCHEMAS:
                _compare_rows(verdict, table, _rows(first, table), _rows(second, table))
            registries = (
                Registry(before, undisturbed.models, model_key(undisturbed)),
                Registry(after, disturbed.models, model_key(disturbed)),
            )
            for line in project.instruments:
                _compare_line(verdict, line, *registries)
                _check_learned(verdict, line, registries[1], second)
                if not verdict.lost:
                    _check_answers(verdict, line, registries[1], second)
        if before.dead_letters() != after.dead_letters():
            verdict.differences.append(f"dead letters: {before.dead_letters()} undisturbed, {after.dead_letters()} now")
    return verdict


def _rows(lake: Lake, table: str) -> pa.Table:
    columns = ", ".join(KEYS) if table == "predictions" else "*"
    return lake.query(f"SELECT {columns} FROM {table} ORDER BY instrument, {TIME[table]}")  # noqa: S608 - names of SCHEMAS


def _compare_rows(verdict: Verdict, table: str, first: pa.Table, second: pa.Table) -> None:
    keys = [
        Counter(zip(rows["instrument"].to_pylist(), rows[TIME[table]].to_pylist(), strict=True))
        for rows in (first, second)
    ]
    verdict.rows[table] = second.num_rows
    for name, surplus in (("lost", keys[0] - keys[1]), ("doubled", keys[1] - keys[0])):
        setattr(verdict, name, getattr(verdict, name) + surplus.total())
        if surplus:
            instrument, ts = min(surplus)
            verdict.differences.append(f"{table}: {surplus.total()} rows {name}, the first of {instrument} at {ts}")
    if keys[0] != keys[1]:
        return
    for name in first.column_names:
        unequal = np.flatnonzero(_bits(first[name]) != _bits(second[name]))
        if len(unequal):
            i = int(unequal[0])
            where = f"{first['instrument'][i]} at {first[TIME[table]][i]}"
            values = f"{first[name][i]} undisturbed, {second[name][i]} now"
            verdict.differences.append(f"{table}: {name} of {len(unequal)} rows, first {where}: {values}")


def _bits(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.generic]:
    """Return a column so that equal elements are the same bits: -0.0 is not 0.0, and a NaN equals itself."""
    values = column.to_numpy()
    return values.view(np.int64) if values.dtype == np.float64 else values.astype(str)


def _compare_line(verdict: Verdict, line: str, first: Registry, second: Registry) -> None:
    chains = [_chain(registry, line) for registry in (first, second)]
    verdict.digests[line] = chains[0][-1].digest, chains[1][-1].digest
    verdict.learned += chains[1][-1].n_learned
    said = [[(v.kind, v.watermark, v.n_learned, v.digest) for v in chain] for chain in chains]
    if said[0] != said[1]:
        pairs = zip(*said, strict=False)
        one, other = next(((a, b) for a, b in pairs if a != b), (f"{len(said[0])} in all", f"{len(said[1])} in all"))
        verdict.differences.append(f"{line}: versions differ, first {one} undisturbed, {other} disturbed")
    if chains[1][0].parent is not None:
        verdict.differences.append(f"{line}: version {chains[1][0].number} grew from a version that is not there")
    kept = {version.number for version in chains[1]}
    for version in _versions(second, line):
        if version.number not in kept and not _is_damaged(second, version):
            verdict.differences.append(f"{line}: version {version.number} is good, but nothing grew from it")


def _chain(registry: Registry, line: str) -> list[Version]:
    """Return the versions that the newest one grew from, oldest first, and itself."""
    known = {version.number: version for version in _versions(registry, line)}
    chain = [known[max(known)]]
    while (parent := known.get(chain[-1].parent or 0)) is not None:
        chain.append(parent)
    return chain[::-1]


def _versions(registry: Registry, line: str) -> list[Version]:
    found: list[Version] = []
    cursor = 0
    while some := registry.since(cursor, 1_000):
        found += [version for version in some if version.line == line]
        cursor = some[-1].id
    return found


def _is_damaged(registry: Registry, version: Version) -> bool:
    try:
        registry.load(version)
    except ArtifactRefused:
        return True
    return False


def _check_learned(verdict: Verdict, line: str, registry: Registry, lake: Lake) -> None:
    newest = registry.newest(line)
    learned = newest.n_learned if newest else 0
    examples = len(read_table(lake, "examples", line, 0, _EVER))
    if learned != examples:
        verdict.differences.append(f"{line}: learned {learned} of {examples} examples")


def _check_answers(verdict: Verdict, line: str, registry: Registry, lake: Lake) -> None:
    """Hold every prediction against what its version says of its vector."""
    columns = f"ts_event, model_version, {', '.join(TARGETS)}"
    answers = lake.query(f"SELECT {columns} FROM predictions WHERE instrument = ? ORDER BY ts_event", [line])  # noqa: S608
    vectors = read_table(lake, "features", line, 0, _EVER)
    ts, versions = (answers[name].to_numpy() for name in ("ts_event", "model_version"))
    said = np.column_stack([answers[target].to_numpy() for target in TARGETS])
    for number in np.unique(versions).tolist():
        mine = versions == number
        version = registry.get(line, number)
        try:
            served = registry.open(version).line if version else None
        except ArtifactRefused:
            served = None
        if served is None:
            verdict.unheld += int(mine.sum())
            continue
        asked = vectors.values[np.searchsorted(vectors.ts, ts[mine])]
        expected = served.predict(asked)
        verdict.answers += int(mine.sum())
        if not np.array_equal(expected.view(np.int64), said[mine].view(np.int64)):
            i = int(np.flatnonzero((expected.view(np.int64) != said[mine].view(np.int64)).any(axis=1))[0])
            verdict.differences.append(
                f"{line}: the prediction at {ts[mine][i]} is {said[mine][i].tolist()}, but its version {number} says "
                f"{expected[i].tolist()}"
            )
            return
