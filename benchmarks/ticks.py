"""How long a tick of each sensor takes, wall and processor time: ``python benchmarks/ticks.py`` beside ``tidemill up``.

It evaluates the sensors of the home that the environment names, against its own Dagster instance, some 200 times each
from the cursor that the tick before returned, and stores nothing: what a tick asks for, nobody gets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dagster as dg
import numpy as np

from orchestration.definitions import defs, places
from orchestration.looks import control_of
from warehouse.heartbeats import Heartbeats


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=200)
    chosen = parser.parse_args()
    with control_of(places) as control:
        beating = sorted({beat.service for beat in Heartbeats(control).beats()}) if control is not None else []
    found: dict[str, object] = {"ticks": chosen.ticks, "services": beating, "load": round(os.getloadavg()[0], 1)}
    with dg.DagsterInstance.from_config(str(places.home.absolute() / "dagster")) as instance:
        for sensor in defs.get_repository_def().sensor_defs:
            cursor, seconds, processor = None, [], []
            for _ in range(chosen.ticks):
                wall, own = time.perf_counter(), time.process_time()
                result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
                seconds.append(time.perf_counter() - wall)
                processor.append(time.process_time() - own)
                cursor = result.cursor if isinstance(result, dg.SensorResult) else cursor
            p50, p99 = np.percentile(seconds, [50, 99])
            found[sensor.name] = {
                "p50_ms": round(1000 * float(p50), 1),
                "p99_ms": round(1000 * float(p99), 1),
                "max_ms": round(1000 * max(seconds), 1),
                "processor_p50_ms": round(1000 * float(np.median(processor)), 1),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
