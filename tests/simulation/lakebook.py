"""The judge's look at the lake: keys, order and offsets after every commit, every value at the end."""

from __future__ import annotations

import numpy as np

from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS
from tests.simulation.invariants import OFFSETS, ROWS, Violation
from warehouse import tables

TABLES = {BARS: "bars", FEATURES: "features", FEATURES_WITH_TARGET: "examples", PREDICTIONS: "predictions"}


class LakeBook:
    """Reads the twin's rows; see ``judge``."""

    def __init__(self, judge) -> None:
        self._judge, self._world = judge, judge._world
        self._commits = 0

    def _times(self, name: str) -> dict[str, np.ndarray]:
        oracle = self._judge.oracles[name]
        return {"bars": oracle.bars.ts, "features": oracle.vectors.ts, "examples": oracle.examples.available}

    def step(self) -> None:
        """Check what a commit has left behind."""
        if self._world.pool.commits == self._commits:
            return
        self._commits = self._world.pool.commits
        newest = {}
        for table, time in tables.TIME.items():
            rows = self._world.pool.rows(
                f"SELECT instrument, count(*), count(DISTINCT ts_event), max({time}) FROM {table} GROUP BY 1"  # noqa: S608
            )
            for name, n, distinct, last in rows:
                newest[table, name] = last
                if n != distinct:
                    raise Violation(ROWS, f"{n - distinct} rows of {table} are there twice")
                if table != "predictions":
                    expected = int(np.searchsorted(self._times(name)[table], last, side="right"))
                    if n != expected:
                        raise Violation(ROWS, f"{table} of {name} has {n} of {expected} rows until {last}")
        self._offsets(newest)

    def _offsets(self, newest: dict[tuple[str, str], int]) -> None:
        broker = self._world.broker
        for topic, part, offset, last_ts, log in self._world.pool.rows(
            "SELECT topic, part, next_offset, last_ts, log FROM consumer_offsets ORDER BY ALL"
        ):
            name = self._judge.project.instruments[part]
            seam = self._judge.oracles[name].seam
            if last_ts != max(newest.get((TABLES[topic], name), seam), seam):
                raise Violation(OFFSETS, f"{topic}/{part} says {last_ts}, rows end at {newest}")
            if offset > broker.reached.get((log, topic, part), 0):
                raise Violation(OFFSETS, f"{topic}/{part} at {offset} of {log}, which never was so long")

    def marks(self, partition: int) -> list[int]:
        """Return how far each of the three derived topics has landed, ns."""
        seam = self._judge.oracles[self._judge.project.instruments[partition]].seam
        rows = self._world.pool.rows(f"SELECT topic, last_ts FROM consumer_offsets WHERE part = {partition}")  # noqa: S608
        landed = dict(rows)
        return [landed.get(topic, seam) for topic in (BARS, FEATURES, FEATURES_WITH_TARGET)]

    def compare(self, excused: dict[str, set[int]]) -> None:
        """Check every value and that none is missing, but predictions that a deleted topic took along."""
        for name, oracle in self._judge.oracles.items():
            for table, expected in (
                ("bars", oracle.bars), ("features", oracle.vectors), ("examples", oracle.examples)
            ):  # fmt: skip
                columns = ", ".join(tables.SCHEMAS[table].names)
                rows = self._world.pool.table(
                    f"SELECT {columns} FROM {table} WHERE instrument = '{name}' ORDER BY {tables.TIME[table]}"  # noqa: S608
                ).cast(tables.SCHEMAS[table])
                found = getattr(tables, f"rows_to_{_WORD[table]}")(rows)
                for column, wanted in vars(expected).items():
                    if not np.array_equal(getattr(found, column), wanted, equal_nan=True):
                        raise Violation(ROWS, f"{table} of {name} differ in {column}")
            self._answers(name, set(oracle.x) - excused[name])

    def _answers(self, name: str, wanted: set[int]) -> None:
        rows = self._world.pool.rows(f"SELECT ts_event FROM predictions WHERE instrument = '{name}'")  # noqa: S608
        answered = {ts for (ts,) in rows}
        if missing := wanted - answered:
            raise Violation(ROWS, f"{len(missing)} vectors of {name} have no answer, such as {min(missing)}")


_WORD = {"bars": "bars", "features": "vectors", "examples": "examples"}
