"""A small mill to test with: two simulated instruments, two days of history, and services that are tiny processes."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg

from assets.resources import Mill, Service
from domain.config import Places
from domain.services import STREAMS
from orchestration.deployment import Deployment
from orchestration.settings import read_project
from orchestration.supervisor import Policy, Supervisor

ROOT = Path(__file__).parents[1]

TOML = """
instruments = ["simulated:BTC-USD", "simulated:ETH-USD"]

[market]
opens = 2025-01-03T00:00:00Z
history_days = 2

[[fleet]]
name = "rls"
kind = "rls"
targets = ["price_change", "direction", "volatility"]
"""
FIRST, LAST = "2025-01-01", "2025-01-02"

# Beats once, as the first beat of a service that is ready; then does what its second argument says.
CHILD = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from domain.health import Beat
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
name, url, what = sys.argv[1:]
now = time.time()
if what == "crash":
    sys.exit("the disk is full")
beats = Heartbeats(Control.open(url))
while not beats.beat(Beat(name, "test", os.getpid(), "running", 0, {{}}, 1, now, 0, True, now, now)):
    time.sleep(0.01)
time.sleep(600)
"""


def mill_at(home: Path, toml: str = TOML) -> Mill:
    """Return a mill with a home and a configuration file of its own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "tidemill.toml").write_text(toml)
    places = Places(home=home, config=home / "tidemill.toml")
    return Mill(read_project(places), places)


def days(first: str = FIRST, last: str = LAST) -> dict[str, str]:
    """Return the tags of a run over these days."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def materialized(instance: dg.DagsterInstance, key: str) -> list[dg.AssetMaterialization]:
    """Return an asset's materializations, oldest first."""
    found = instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=1000).records
    return [record.asset_materialization for record in reversed(found)]


class TinyServices:
    """Deploys services as processes that only beat; a crashing one ends with its last words."""

    def __init__(self, mill: Mill, crashing: frozenset[str] = frozenset()) -> None:
        self.mill, self.deployment = mill, Deployment(mill.places, mill.project)
        self.supervisor = Supervisor(self.deployment.supervisor.root, Policy(max_fails=0, grace_s=2.0))
        self.control, self.crashing = mill.places.control, crashing
        self.rehearsal, self.rehearsed = "", []

    def fingerprint(self, name: str) -> dict[str, str]:
        return self.deployment.fingerprint(name)

    def rehearse(self, name: str) -> str:
        self.rehearsed.append(name)
        return self.rehearsal

    def redeploy(self, name: str) -> None:
        what = "crash" if name in self.crashing else "beat"
        argv = [sys.executable, "-c", CHILD, name, self.control, what]
        if self.supervisor.spec(name) is None:
            self.supervisor.start(name, argv, meta=self.fingerprint(name))
        else:
            self.supervisor.restart(name, argv=argv, meta=self.fingerprint(name))

    def look(self, name: str) -> Service:
        status, spec = self.supervisor.status(name), self.supervisor.spec(name)
        meta, command = (spec["meta"], spec["argv"][0]) if spec else ({}, "")
        why = f"{status.reason}: {status.detail}"
        return Service(
            status.phase, status.pid, status.generation, status.restarts, why, command,
            meta.get("config", ""), meta.get("code", ""), (status.started_at or 0) / 1e9,
        )  # fmt: skip

    def tail(self, name: str, n: int) -> list[str]:
        return self.supervisor.tail(name, n)

    def deploy_all(self) -> None:
        """Deploy every service and wait until each is running."""
        for name in STREAMS:
            self.redeploy(name)
        for name in STREAMS:
            self.supervisor.wait(name, {"running"}, 20.0)

    def end(self) -> None:
        self.supervisor.stop_all()
