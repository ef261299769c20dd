"""``python -m tests.simulation --seed S --days N [--json]``: N days, each of its own seed, from S on."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.simulation.day import Day, live


def main() -> int:
    """Run the days and say what they came to; 1 when an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--hours", type=float, default=24.0, help="of market a day, default 24")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines for people")
    parser.add_argument("--trace", action="store_true", help="the last steps of a failing day")
    arguments = parser.parse_args()
    begun, cpu = time.perf_counter(), time.process_time()
    days: list[Day] = []
    for seed in range(arguments.seed, arguments.seed + arguments.days):
        day = live(seed, arguments.hours)
        days.append(day)
        if not arguments.json:
            _say(day, trace=arguments.trace)
    total = {
        "seed": arguments.seed,
        "days": len(days),
        "hours": sum(day.hours for day in days),
        "steps": sum(day.steps for day in days),
        "versions": sum(day.versions for day in days),
        "predictions": sum(day.predictions for day in days),
        "mishaps": _added(days),
        "stops": sum(day.stops for day in days),
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "violations": [
            {"seed": d.seed, "invariant": d.invariant, "what": d.violation, "replay": d.replay}
            for d in days
            if d.violation
        ],
    }
    sys.stdout.write(json.dumps(total, indent=None if arguments.json else 2) + "\n")
    return 1 if total["violations"] else 0


def _say(day: Day, *, trace: bool) -> None:
    if day.violation and trace:
        sys.stdout.write("\n".join(day.tail) + "\n")
    outcome = f"VIOLATION {day.violation}\n    replay: {day.replay}" if day.violation else "ok"
    sys.stdout.write(f"seed {day.seed}: {day.steps} steps, {day.versions} versions, {day.trace[:12]} {outcome}\n")
    sys.stdout.flush()


def _added(days: list[Day]) -> dict[str, int]:
    names = sorted({name for day in days for name in day.mishaps})
    return {name: sum(day.mishaps.get(name, 0) for day in days) for name in names}


if __name__ == "__main__":
    sys.exit(main())
