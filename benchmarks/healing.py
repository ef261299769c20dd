"""How soon a killed or frozen trainer learns again under a real ``tidemill up``: ``python benchmarks/healing.py``.

Options: ``[--kills N] [--json]``. A home and ports of its own; then, N times, the trainer is killed with -9 once every
service is healthy, and the clock runs until the heartbeat of a *new* process shows more examples learned than the old
one's last. Where the seconds go: to the sensor's first look that saw it (``detected``), to the run that it asked for
(``requested``), to the new process (``started``), to its first example (``learning``). At last one is frozen by
SIGSTOP: until it is replaced, and whether it can publish when it is continued.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from domain.config import Places
from domain.health import Beat, ready
from domain.services import STREAMS
from orchestration.processes import identity
from orchestration.supervisor import Supervisor
from warehouse.control import Control
from warehouse.control_tables import leases
from warehouse.heartbeats import Heartbeats

ROOT = Path(__file__).parents[1]
DEADLINE_S, POLL_S = 180.0, 0.05
STAGES = ("detected", "requested", "started", "learning")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mill:
    """A Tidemill of its own that is up while this is entered."""

    def __init__(self, home: Path) -> None:
        ports = {name: free_port() for name in ("broker_port", "dagster_port", "serving_port", "exchange_port")}
        self.places = Places(home=home, config=ROOT / "tidemill.toml", market="box", **ports)  # type: ignore[arg-type]
        told = {"home": home, "config": self.places.config, "market": "box", **ports}
        self._env = os.environ | {f"TIDEMILL_{name.upper()}": str(value) for name, value in told.items()}
        self.supervisor = Supervisor(home / "services")

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # then everything that was started is ended, too
        try:
            self._tidemill("up", "--wait", "900")
        except BaseException:
            self._tidemill("down")
            raise
        self.control = Control.open(self.places.control)
        return self

    def __exit__(self, *_: object) -> None:
        self._tidemill("down")
        self.control.close()

    def _tidemill(self, *args: str) -> None:
        command = [sys.executable, "-m", "orchestration.cli", *args]
        subprocess.run(command, env=self._env, cwd=ROOT, check=True, stdout=sys.stderr)  # noqa: S603

    def beats(self) -> dict[str, Beat]:
        """Return the heartbeat of each service's present process."""
        pids = {name: self.supervisor.status(name).pid for name in STREAMS}
        return {beat.service: beat for beat in Heartbeats(self.control).beats() if beat.pid == pids.get(beat.service)}

    def settle(self) -> Beat:
        """Wait until every service is healthy; return the trainer's beat."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            beats = self.beats()
            if all(ready(beats.get(name), time.time()) for name in STREAMS):
                return beats["trainer"]
            time.sleep(POLL_S)
        raise SystemExit(f"not every service was healthy within {DEADLINE_S:g} s")

    def learning_again(self, old: Beat) -> Beat:
        """Wait until another trainer has learned more than this one had."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            beat = self.beats().get("trainer")
            if beat is not None and beat.pid != old.pid and beat.detail.get("n_learned", 0) > old.detail["n_learned"]:
                return beat
            time.sleep(POLL_S)
        raise SystemExit(f"no new trainer learned within {DEADLINE_S:g} s")

    def newest_redeploy(self) -> dict[str, str]:
        """Return the tags of the newest redeploy run."""
        query = '{runsOrError(limit:1,filter:{pipelineName:"redeploy"}){...on Runs{results{tags{key value}}}}}'
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.places.dagster_port}/graphql",
            json.dumps({"query": query}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            (run,) = json.load(reply)["data"]["runsOrError"]["results"]
        return {tag["key"]: tag["value"] for tag in run["tags"]}

    def epochs(self) -> dict[str, int]:
        """Return the lease epoch of each line."""
        rows = self.control.read(lambda c: c.execute(leases.select()).all())
        return {row.line: row.epoch for row in rows}


def strike(mill: Mill, number: int) -> dict[str, float]:
    """Send the trainer a signal; return seconds from it to each stage of the cure."""
    mill.settle()
    old = mill.beats()["trainer"]
    at = time.time()
    os.kill(old.pid, number)
    mill.learning_again(old)
    learning, started = time.time(), mill.supervisor.status("trainer").started_at or 0
    tags = mill.newest_redeploy()
    seen = json.loads(tags["tidemill/detected_at"])["trainer"]
    moments = (seen, float(tags["tidemill/requested_at"]), started / 1e9, learning)
    return {stage: round(moment - at, 2) for stage, moment in zip(STAGES, moments, strict=True)}


def freeze(mill: Mill) -> dict[str, object]:
    """Freeze the trainer; return how soon it was replaced, and whether it could come back."""
    frozen = mill.settle().pid
    who, before = identity(frozen), mill.epochs()
    found: dict[str, object] = {**strike(mill, signal.SIGSTOP)}
    after = mill.epochs()
    if gone := identity(frozen) != who:
        return found | {"frozen_process": "gone", "epochs": [before, after]}
    os.kill(frozen, signal.SIGCONT)
    fenced = all(after[line] > epoch for line, epoch in before.items())
    return found | {"frozen_process": "fenced" if fenced else "CAN PUBLISH", "gone": gone, "epochs": [before, after]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kills", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-healing-") as root, Mill(Path(root) / "home") as mill:
        kills = []
        for _ in range(chosen.kills):
            kills.append(strike(mill, signal.SIGKILL))
            print(json.dumps(kills[-1]), file=sys.stderr, flush=True)
        frozen = freeze(mill)
    found = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[1], 1),
        "median_s": {stage: round(statistics.median(kill[stage] for kill in kills), 2) for stage in STAGES},
        "worst_s": {stage: max(kill[stage] for kill in kills) for stage in STAGES},
        "frozen": frozen,
    }
    if chosen.json:
        print(json.dumps(found | {"kills": kills}))
        return
    print(f"{'seconds from kill -9 to':26}" + "".join(f"{stage:>11}" for stage in STAGES))
    for name in ("median_s", "worst_s"):
        print(f"{name:26}" + "".join(f"{found[name][stage]:>11.2f}" for stage in STAGES))  # type: ignore[index]
    print(f"frozen: {json.dumps(frozen)}; load {found['load']} on {found['cores']} cores")


if __name__ == "__main__":
    main()
