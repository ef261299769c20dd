"""Processes that share one home, forked by a parent that has opened nothing: ``processes.py SCENARIO HOME SEED``.

The parent prints one JSON document: what the children acknowledged and how they ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from domain.config import Places
from domain.errors import LeaseLost, Unavailable
from domain.features import FEATURES, VectorRecord
from warehouse import landing, tables
from warehouse.control import Control
from warehouse.lake import Lake
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

LINE = "simulated:BTC-USD"
TOTAL = 2_000
Child = Callable[[int, Callable[[object], None]], None]


def land_stream(places: Places, seed: int, tell: Callable[[object], None]) -> None:
    """Land offsets 0 to TOTAL of one partition, from where it stands, in batches of random size."""
    rng = random.Random(seed)
    values = np.random.default_rng(0).normal(size=len(FEATURES)).tolist()
    with Lake.open(places) as lake:
        landed = landing.landed(lake, "features", 0)
        position = landed.next_offset if landed else 0
        while position < TOTAL:
            end = min(TOTAL, position + rng.choice([1, 30, 150, 400]))
            offsets = range(position, end)
            # Every tenth record repeats the time of the one before: a re-emission, which must not land.
            records = [VectorRecord(LINE, 1 + off - (off % 10 == 9), *values) for off in offsets]
            rows = tables.records_to_rows("features", records, offsets)
            inserted = landing.land(lake, [landing.Batch("features", "features", 0, rows, end)])
            tell({"next_offset": end, "inserted": inserted[0]})
            position = end


def publish_often(places: Places, seed: int, tell: Callable[[object], None]) -> None:
    """Take the line's lease for too short a time, dawdle, publish; again and again."""
    rng = random.Random(seed)
    with Control.open(places.control) as control:
        leases, registry = Leases(control), Registry(control, places.models)
        for k in range(25):
            try:
                lease = leases.acquire(LINE, f"trainer-{seed}", 0.01)
            except Unavailable:
                time.sleep(0.005)
                continue
            time.sleep(rng.random() * 0.03)
            newest = registry.newest(LINE)
            info = VersionInfo(
                kind="update",
                parent=newest.number if newest else None,
                watermark=k,
                n_learned=k,
                digest=f"{seed}-{k}",
            )
            try:
                version = registry.publish(LINE, rng.randbytes(20_000), info, lease)
            except LeaseLost:
                tell({"lost": lease.epoch})
            else:
                tell({"number": version.number, "epoch": lease.epoch, "sha256": version.sha256})


def open_both(places: Places, _seed: int, tell: Callable[[object], None]) -> None:
    """Open the lake and the control database as if they had always been there."""
    with Lake.open(places) as lake, Control.open(places.control) as control:
        control.count_dead_letter("test", "opened")
        tell({"tables": lake.query("FROM schema_migrations").num_rows})


def fork(work: Callable[[Callable[[object], None]], None]) -> tuple[int, int]:
    """Return the child's process id and the end from which its JSON lines are read."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid:
        os.close(sending)
        return pid, receiving
    code = 1
    try:
        os.close(receiving)
        work(lambda message: os.write(sending, (json.dumps(message) + "\n").encode()) and None)
        code = 0
    finally:
        if code:
            import traceback

            traceback.print_exc()
        os._exit(code)


def outcome(pid: int, receiving: int) -> dict[str, object]:
    """Wait for a child; return its exit status and what it acknowledged, whole lines only."""
    with os.fdopen(receiving) as lines:
        said = lines.read().split("\n")[:-1]
    _pid, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "said": [json.loads(line) for line in said]}


def together(works: list[Callable[[Callable[[object], None]], None]]) -> list[dict[str, object]]:
    return [outcome(*child) for child in [fork(work) for work in works]]


def killed(work: Callable[[Callable[[object], None]], None], first_s: float, rng: random.Random) -> dict[str, object]:
    """Run the work and kill it at a random moment, first when it has just begun to matter."""
    pid, receiving = fork(work)
    time.sleep(first_s + rng.random() * 0.4)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return outcome(pid, receiving)


def main(scenario: str, home: str, seed: int) -> list[dict[str, object]]:
    places, rng = Places(home=Path(home)), random.Random(seed)
    work = {"land": land_stream, "publish": publish_often, "open": open_both}[scenario.removesuffix("-killed")]

    def child(k: int) -> Callable[[Callable[[object], None]], None]:
        return lambda tell: work(places, k, tell)

    if scenario.endswith("-killed"):
        delay = 0.5 if work is land_stream else 0.05
        return [*(killed(child(k), delay, rng) for k in range(4)), *together([child(9)])]
    return together([child(k) for k in range(4 if work is open_both else 3)])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
