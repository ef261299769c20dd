"""How soon a mill is whole again that loses one of its nine processes: ``python benchmarks/tending.py [--json]``.

A home and ports of its own under a real ``tidemill up``. Each process in turn is frozen with SIGSTOP, then each in turn
is killed with -9 together with its shim; with ``--blow "out of memory"`` (root, Linux) each is put into a memory cgroup
that another process fills, so that the kernel's out-of-memory killer ends it. With ``--disk`` (the same) the home lies
on a disk of its own, which is then full for half a minute; nothing else is done.

The clock runs until all of this is true again, without a person: every service healthy in ``status``, the victim
another process, the broker's heartbeat its own, the exchange and the web server answering, and Dagster's sensors having
signed since the blow where it hit their daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from healing import Mill

from domain.errors import TidemillError
from orchestration.deployment import Deployment
from orchestration.homes import Home
from orchestration.opening import settled_project
from orchestration.status import rows_of
from warehouse.heartbeats import Heartbeats

DEADLINE_S, POLL_S, QUIET_S = 300.0, 0.25, 5.0
ANSWER_S, GOAL_S = 5.0, 60.0
SHIM_AND_CHILD = 2
FULL_S, DISK = 30.0, "2g"
SMALL = 64 << 20
HOG = """import os, sys
open(f"/proc/{os.getpid()}/oom_score_adj", "w").write("-900")
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
bytearray(int(sys.argv[2])), sys.stdin.read()"""
BLOWS = (FROZEN, KILLED, OUT_OF_MEMORY) = ("frozen", "killed with its shim", "out of memory")

_DAEMONS = "{instance{daemonHealth{allDaemonStatuses{daemonType healthy lastHeartbeatTime}}}}"


@contextlib.contextmanager
def starved(pid: int) -> Iterator[None]:
    """Let the kernel's out-of-memory killer take one process: a hog beside it in a small cgroup is the dearer one."""
    root = Path("/sys/fs/cgroup/memory")  # version 1, or else version 2
    root, most = (root, "memory.limit_in_bytes") if root.is_dir() else (root.parent, "memory.max")
    group = root / f"tidemill-tending-{os.getpid()}"
    group.mkdir()
    try:
        (group / most).write_text(str(SMALL))
        (group / "cgroup.procs").write_text(str(pid))
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        with subprocess.Popen([sys.executable, "-c", HOG, str(group), str(SMALL)], stdin=subprocess.PIPE) as hog:  # noqa: S603
            yield
            hog.kill()
    finally:
        with contextlib.suppress(OSError):  # what is left of it goes with the processes
            group.rmdir()


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """Put a file system of its own there, in memory."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(at)], check=True)  # noqa: S603, S607
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)  # noqa: S603, S607


def fill(ballast: Path) -> None:
    """Leave no byte of a disk."""
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


class Foundation:
    """What is asked of a mill to call it whole."""

    def __init__(self, mill: Mill) -> None:
        self.mill, self.places = mill, mill.places
        self.names = Deployment(self.places, settled_project(self.places)).foundation

    def phase(self, name: str) -> tuple[str, int | None]:
        """Return a service's phase and process."""
        status = self.mill.supervisor.status(name)
        return status.phase, status.pid

    def wanting(self, since: float) -> str:
        """Say what is not well yet, of what was heard after ``since`` (unix seconds); empty when the mill is whole."""
        sick = [row.name for row in rows_of(self.places, self.names) if not row.healthy]
        if sick:
            return f"not healthy: {', '.join(sick)}"
        beats = [beat for beat in Heartbeats(self.mill.control).beats() if beat.service == "broker"]
        pid = self.mill.supervisor.status("broker").pid
        if not any(beat.pid == pid and time.time() - beat.beat_at < ANSWER_S for beat in beats):
            return "the broker sends no heartbeat"
        try:
            self._get(f"http://127.0.0.1:{self.places.exchange_port}/box")
            found = self._get(
                f"http://127.0.0.1:{self.places.dagster_port}/graphql", json.dumps({"query": _DAEMONS}).encode()
            )
        except (OSError, ValueError) as error:
            return f"no answer: {error}"
        daemons = found["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        late = [d["daemonType"] for d in daemons if d["daemonType"] == "SENSOR" and d["lastHeartbeatTime"] < since]
        return f"no heartbeat of {', '.join(late)}" if late else ""

    def _get(self, url: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:  # noqa: S310
            return dict(json.load(reply))

    def settle(self) -> None:
        """Wait until the mill has been whole for some seconds."""
        until, whole = time.monotonic() + DEADLINE_S, time.monotonic()
        while time.monotonic() - whole < QUIET_S:
            if wanting := self.wanting(0.0):
                whole = time.monotonic()
            if time.monotonic() > until:
                raise SystemExit(f"not whole within {DEADLINE_S:g} s: {wanting}")
            time.sleep(POLL_S)

    def strike(self, name: str, blow: str) -> dict[str, Any]:
        """Deal a process one of ``BLOWS``; return how the mill fared."""
        self.settle()
        status = self.mill.supervisor.status(name)
        if status.pid is None or status.shim_pid is None:
            raise SystemExit(f"{name} is {status.phase}")
        with contextlib.ExitStack() as over:
            at, began = time.time(), time.monotonic()
            if blow == OUT_OF_MEMORY:
                over.enter_context(starved(status.pid))
            elif blow == KILLED:
                os.kill(status.shim_pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):  # the shim's end may have ended it
                    os.kill(status.pid, signal.SIGKILL)
            else:
                os.kill(status.pid, signal.SIGSTOP)
            return self._fared(name, blow, status.pid, at, began)

    def outlast(self, disk: Path) -> dict[str, Any]:
        """Fill the disk of the home for a while; return how the mill fared, from when there was space again."""
        self.settle()
        until = time.monotonic() + FULL_S
        seen: set[str] = set()
        while time.monotonic() < until:
            fill(disk / "ballast")
            with contextlib.suppress(TidemillError):
                seen |= {
                    f"{row.name} {row.phase}" for row in rows_of(self.places, self.names) if row.phase != "running"
                }
            time.sleep(POLL_S)
        (disk / "ballast").unlink()
        began = time.monotonic()
        while (wanting := self.wanting(time.time() - FULL_S)) and time.monotonic() - began < DEADLINE_S:
            time.sleep(POLL_S)
        return {
            "blow": f"disk full for {FULL_S:g} s",
            "whole_s": round(time.monotonic() - began, 1),
            "seen": sorted(seen),
            "restarts": {row.name: row.restarts for row in rows_of(self.places, self.names) if row.restarts},
            "wanting": wanting,
        }

    def _fared(self, name: str, blow: str, former: int, at: float, began: float) -> dict[str, Any]:
        """Watch until the mill is whole again, or for five minutes.

        Parameters
        ----------
        former : the process that was struck
        at, began : when, in unix and monotonic seconds
        """
        called_running = again = 0.0
        wanting = "the same process"
        while time.monotonic() - began < DEADLINE_S:
            passed = time.monotonic() - began
            phase, pid = self.phase(name)
            if pid == former or pid is None:
                called_running = passed if phase == "running" else called_running
            else:
                again = again or passed
                wanting = self.wanting(at if name == "dagster-daemon" else 0.0)
                if not wanting:
                    break
            time.sleep(POLL_S)
        holders = Home(self.mill.supervisor.root / name).holders()
        return {
            "service": name,
            "blow": blow,
            "another_process_s": round(again, 1),
            "whole_s": round(time.monotonic() - began, 1),
            "called_running_s": round(called_running, 1),
            "processes": len(holders),
            "wanting": wanting,
            "why": self.mill.supervisor.status(name).reason,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", action="append", help="strike this service alone; may be given again for others")
    parser.add_argument("--blow", action="append", choices=BLOWS, help=f"default: {FROZEN} and {KILLED}")
    parser.add_argument("--disk", action="store_true", help="fill the disk of the home instead")
    chosen = parser.parse_args()
    blows = []
    if chosen.disk:
        with tempfile.TemporaryDirectory(prefix="tidemill-tending-") as root:
            disk = Path(root) / "disk"
            with small_disk(disk), Mill(disk / "home") as mill:
                print(json.dumps(Foundation(mill).outlast(disk)))
        return
    with tempfile.TemporaryDirectory(prefix="tidemill-tending-") as root, Mill(Path(root) / "home") as mill:
        foundation = Foundation(mill)
        names = chosen.only or [row.name for row in rows_of(mill.places, foundation.names)]
        for blow in chosen.blow or (FROZEN, KILLED):
            for name in names:
                blows.append(foundation.strike(name, blow))
                print(json.dumps(blows[-1]), file=sys.stderr, flush=True)
    found = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[1], 1),
        "whole_within_60_s": sum(blow["whole_s"] <= GOAL_S and not blow["wanting"] for blow in blows),
        "worst_s": max(blow["whole_s"] for blow in blows),
        "called_running_s": max(blow["called_running_s"] for blow in blows),
        "second_copies": sum(blow["processes"] > SHIM_AND_CHILD for blow in blows),
        "blows": blows,
    }
    if chosen.json:
        print(json.dumps(found))
        return
    print(f"{'':20}{'blow':22}{'another process':>16}{'whole, s':>10}{'called running, s':>19}")
    for b in blows:
        seconds = f"{b['another_process_s']:>16}{b['whole_s']:>10}{b['called_running_s']:>19}"
        print(f"{b['service']:20}{b['blow']:22}{seconds}  {b['wanting']}")
    print(f"{found['whole_within_60_s']} of {len(blows)} whole within 60 s, {found['second_copies']} second copies")
    print(f"load {found['load']} on {found['cores']} cores")


if __name__ == "__main__":
    main()
