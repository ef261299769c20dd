"""Whether memory stays flat: every process's resident memory while millions of trades run through all of them.

Run ``python benchmarks/memory.py [--events N] [--json]``. A made-up market of N trades, ten a bar, is replayed as fast
as it goes; four times a second each process's resident memory is noted with the records it has handled by then. Growth
is the slope of a line through the second half of the stream, when caches and queues have filled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from domain.services import STREAMS
from orchestration.deployment import Deployment
from orchestration.planned import plan
from orchestration.replay import Replay
from warehouse.heartbeats import Heartbeats

PIECE = 262_144
TRADES_A_BAR = 10
START_MS = 1_546_300_800_000
HISTORY_BARS = 2_000


def write_market(path: Path, events: int) -> None:
    """Write so many trades of a seeded random walk, at an even pace."""
    rng = np.random.default_rng(7)
    price, done = 100.0, 0
    schema = pa.schema(
        [
            ("symbol", pa.string()),
            ("ts", pa.timestamp("ms", tz="UTC")),
            ("price", pa.float64()),
            ("size", pa.float64()),
            ("side", pa.string()),
            ("trade_id", pa.int64()),
        ]
    )
    with pq.ParquetWriter(path, schema) as file:
        while done < events:
            n = min(PIECE, events - done)
            walk = price * np.exp(np.cumsum(rng.normal(0, 2e-4, n)))
            number = done + np.arange(n)
            columns = {
                "symbol": pa.array(["AAA-USD"] * n),
                "ts": pa.array(START_MS + number * (60_000 // TRADES_A_BAR), pa.timestamp("ms", tz="UTC")),
                "price": pa.array(walk),
                "size": pa.array(rng.lognormal(-1, 1, n) + 1e-4),
                "side": pa.array(np.where(rng.random(n) < 0.5, "buy", "sell")),
                "trade_id": pa.array(1 + number),
            }
            file.write_table(pa.table(columns, schema), row_group_size=PIECE)
            price, done = float(walk[-1]), done + n


class Watch:
    """Notes what each process takes and has done, at most once in half a second."""

    def __init__(self) -> None:
        self.began = self._last = time.monotonic()
        self.seen: dict[str, list[tuple[float, int]]] = {}

    def __call__(self, deployment: Deployment, beats: Heartbeats) -> None:
        """Look at every process that runs."""
        now = time.monotonic()
        if now - self._last < 0.5:
            return
        self._last = now
        done = {beat.service: beat.progress for beat in beats.beats()}
        done["broker"] = done.get("ingest", 0)
        for name in ("broker", *STREAMS):
            pid = deployment.supervisor.status(name).pid
            if pid and (resident := _resident(pid)):
                self.seen.setdefault(name, []).append((done.get(name, 0), resident))


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def figures(seen: list[tuple[float, int]]) -> dict[str, float]:
    """Return what one process took: at half way, at most, at the end, and how it grew in the second half."""
    done, resident = (np.array(column, float) for column in zip(*seen, strict=True))
    late = done >= done[-1] / 2
    moved = done[late].max() - done[late].min()
    slope = float(np.polyfit(done[late], resident[late], 1)[0]) if moved else 0.0
    return {
        "records": int(done[-1]),
        "half_mb": round(float(resident[late][0]) / 1e6, 1),
        "peak_mb": round(float(resident.max()) / 1e6, 1),
        "end_mb": round(float(resident[-1]) / 1e6, 1),
        "growth_mb_per_million": round(slope, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    watch = Watch()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "trades.parquet"
        write_market(data, arguments.events)
        seam = np.datetime64(START_MS + HISTORY_BARS * 60_000, "ms").astype("datetime64[s]")
        with plan([data], str(seam), "1m", "5m", [], None) as planned:
            report = Replay(planned, on_tick=watch).run()
    services = {name: figures(seen) for name, seen in watch.seen.items()}
    learned = {"events": arguments.events, "learned": report.learned, "seconds": report.seconds, "services": services}
    if arguments.json:
        print(json.dumps(learned))
        return
    print(
        f"{arguments.events:,} trades, {report.learned:,} examples learned, {report.seconds['stream']:.0f} s of stream"
    )
    print(f"{'':12}{'records':>12}{'half MB':>10}{'peak MB':>10}{'end MB':>10}{'growth MB per million records':>32}")
    for name, found in services.items():
        print(
            f"{name:12}{found['records']:>12,}{found['half_mb']:>10}{found['peak_mb']:>10}{found['end_mb']:>10}"
            f"{found['growth_mb_per_million']:>32}"
        )


if __name__ == "__main__":
    main()
