"""Whether a live market is read without loss while its exchange misbehaves: ``python benchmarks/soak.py``.

Options: ``[--minutes N] [--every SECONDS] [--seed N] [--json]``. A real ``tidemill up`` reads the box at 60x
through the Binance connector, and on average every so many seconds a fault is injected: trades dropped, doubled,
reordered or in another format, connections closed, cut or stalled, requests refused. Then the log of trades is held to
contiguous ids, and bars, vectors and examples in the lake to those of the undisturbed market, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from assets.backfill import write_bars, write_examples, write_features
from assets.partitions import history_of
from benchmarks.healing import Mill
from domain.config import Places, Project
from domain.topics import TRADES
from markets.box.faults import KINDS
from markets.catalog import simulated_of
from orchestration.settings import read_project
from streaming import codec
from streaming.kafka import Kafka
from warehouse.features import read_table
from warehouse.lake import Lake
from warehouse.landing import all_landed

FAULTS = tuple(kind for kind in KINDS if kind not in {"mixed", "checksum"})  # Kraken's, and of old history
CALM_S = 20.0
"""Without faults at the end, so that the last ones are repaired and landed."""

TABLES = ("bars", "features", "examples")


def disturb(places: Places, minutes: float, every_s: float, seed: int) -> dict[str, int]:
    """Inject faults for so long, then none for a moment; return what the exchange counted of each."""
    rng, until = random.Random(seed), time.monotonic() + 60 * minutes
    base = f"http://127.0.0.1:{places.exchange_port}/box"
    while (wait := rng.expovariate(1 / every_s)) < until - time.monotonic():
        time.sleep(wait)
        body = json.dumps({"kind": rng.choice(FAULTS)}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{base}/faults", body, method="POST"), timeout=30):  # noqa: S310
            pass
    time.sleep(max(0.0, until - time.monotonic()) + CALM_S)
    with urllib.request.urlopen(base, timeout=30) as reply:
        return dict(json.load(reply)["faults_injected"])


def trades_of(places: Places, project: Project) -> dict[str, dict[str, int]]:
    """Return, per instrument, how many trades its log holds, and how many of the ids between are missing or doubled."""
    transport, keys = Kafka(places), [(TRADES, p) for p in range(len(project.instruments))]
    ends = transport.ends(keys)
    reader = transport.reader("soak", {key: low for key, (low, _) in ends.items()})
    ids: dict[int, list[int]] = {partition: [] for _, partition in keys}
    while any(reader.position[key] < high for key, (_, high) in ends.items()):
        for records in reader.poll(1.0):
            ids[records.partition] += [codec.trade(value).trade_id for value in records.values]
    reader.close()
    found = {}
    for partition, name in enumerate(project.instruments):
        seen = np.array(ids[partition], np.int64)
        unique = np.unique(seen)
        lost = int(unique[-1] - unique[0] + 1 - len(unique)) if len(unique) else 0
        found[name] = {"trades": len(seen), "lost": lost, "doubled": len(seen) - len(unique)}
    return found


def differences(places: Places, project: Project) -> dict[str, dict[str, int]]:
    """Return, per table, how many rows were compared with those of the undisturbed market, and how many differ."""
    market, history, found = simulated_of(project), history_of(project), {}
    with Lake.open(places, read_only=True) as lake, tempfile.TemporaryDirectory() as home:
        landed = all_landed(lake)
        with Lake.open(Places(home=Path(home))) as truth:
            for partition, name in enumerate(project.instruments):
                end = min(landed[topic, partition].last_ts for topic in ("bars", "features", "features_with_target"))
                window = (name, history.start, end, "truth")
                write_bars(truth, market, project, *window)
                write_features(truth, project, *window)
                write_examples(truth, project, *window)
                for table in TABLES:
                    ours = read_table(lake, table, name, history.until, end)
                    theirs = read_table(truth, table, name, history.until, end)
                    rows = found.setdefault(table, {"rows": 0, "different": 0})
                    rows["rows"] += len(theirs)
                    rows["different"] += _different(ours, theirs)
    return found


def _different(ours: object, theirs: object) -> int:
    """Return how many rows of the two are not in both."""
    one, other = _rows(ours), _rows(theirs)
    return ((one - other) + (other - one)).total()


def _rows(table: object) -> Counter[bytes]:
    columns = [np.ascontiguousarray(column).view(np.uint8).reshape(len(column), -1) for column in vars(table).values()]
    return Counter(row.tobytes() for row in np.hstack(columns))


def main() -> None:
    """Run and print; exit with 1 where anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=10.0, help="mean seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-soak-") as root, Mill(Path(root) / "home") as mill:
        project = read_project(mill.places)
        injected = disturb(mill.places, chosen.minutes, chosen.every, chosen.seed)
        feed = mill.beats()["ingest"].detail.get("feed", {})
        trades, rows = trades_of(mill.places, project), differences(mill.places, project)
    bad = any(n["lost"] or n["doubled"] for n in trades.values()) or any(n["different"] for n in rows.values())
    found = {"minutes": chosen.minutes, "faults": sum(injected.values()), "injected": injected, "trades": trades,
             "rows": rows, "feed": feed}  # fmt: skip
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, said in found.items():
            print(f"{name:10}{json.dumps(said)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
