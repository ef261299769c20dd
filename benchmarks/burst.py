"""How soon predictions are up to date again after a burst of trades: ``python benchmarks/burst.py``.

Options: ``[--trades N] [--runs N] [--json]``. A real ``tidemill up`` reads the box at 60x. How far the newest answer of
the slowest instrument is behind the market's clock is looked at for a while (its worst is what counts as normal: bars
are a second of wall time apart); then so many trades happen at once, and the clock runs until the answers are no
further behind than that, for good. At last the log of trades is held to contiguous ids.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.healing import Mill
from benchmarks.soak import trades_of
from domain.config import Places
from orchestration.settings import read_project

CALM_S, LOOK_S, DEADLINE_S = 20.0, 0.02, 60.0
STEADY = 3
"""Bars for which answers must stay up to date to count as such for good."""


def fetched(url: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
    """Return what a URL on this machine answers."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310  # noqa: S310
        return json.load(reply)


def behind_s(places: Places) -> float:
    """Return how far the newest answer of the slowest instrument is behind the market's clock, in wall seconds."""
    newest = min(answer["ts_event"] for answer in fetched(f"http://127.0.0.1:{places.serving_port}/predictions"))
    box = fetched(f"http://127.0.0.1:{places.exchange_port}/box")
    return float((box["now"] - newest) / box["speed"] / 1e9)


def watched(places: Places, seconds: float) -> list[float]:
    """Return how far answers were behind, look by look."""
    until, looks = time.monotonic() + seconds, []
    while time.monotonic() < until:
        looks.append(behind_s(places))
        time.sleep(LOOK_S)
    return looks


def burst(mill: Mill, trades: int, bar_s: float) -> dict[str, float]:
    """Let trades happen at once; return how far answers fell behind, and for how long."""
    mill.settle()
    normal = max(watched(mill.places, CALM_S))
    body = json.dumps({"kind": "burst", "n": trades}).encode()
    began = late = time.monotonic()
    fetched(f"http://127.0.0.1:{mill.places.exchange_port}/box/faults", body)
    worst = 0.0
    while (now := time.monotonic()) - late < STEADY * bar_s:
        behind = behind_s(mill.places)
        worst = max(worst, behind)
        if behind > normal:
            late = time.monotonic()
        if now - began > DEADLINE_S:
            raise SystemExit(f"answers are still {behind:.1f} s behind after {DEADLINE_S:g} s; normal is {normal:.1f}")
        time.sleep(LOOK_S)
    return {"normal_s": round(normal, 2), "worst_s": round(worst, 1), "recovered_s": round(late - began, 2)}


def main() -> None:
    """Measure and print; exit with 1 where a trade is missing or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-burst-") as root, Mill(Path(root) / "home") as mill:
        project = read_project(mill.places)
        bar_s = project.interval / 1e9 / project.market.speed
        bursts = [burst(mill, chosen.trades, bar_s) for _ in range(chosen.runs)]
        trades = trades_of(mill.places, project)
    median = {name: statistics.median(one[name] for one in bursts) for name in bursts[0]}
    found = {"trades_at_once": chosen.trades, "median": median, "bursts": bursts, "log": trades}
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, said in found.items():
            print(f"{name:15}{json.dumps(said)}")
    sys.exit(1 if any(n["lost"] or n["doubled"] for n in trades.values()) else 0)


if __name__ == "__main__":
    main()
