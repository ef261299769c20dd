"""A Tidemill of a test's own, as ``tidemill up`` starts it: its command, its HTTP API and its Dagster."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

CANARIES = {
    "TIDEMILL_MODEL_KEY": "canary-7d1e-signs-the-versions-of-the-tests",
    "TIDEMILL_KAFKA": '{"sasl.password": "canary-2b8c-of-a-broker"}',  # without SASL it opens nothing
}
"""Secrets of a mill that looks for them afterwards; each value holds the word canary."""

_RUN = "runId jobName status startTime endTime tags{key value}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, deadline_s, look):
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {deadline_s} s")


def gone(home: Path) -> bool:
    """Whether no process has this home in its environment or arguments."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if str(home).encode() in (entry / "environ").read_bytes():
                return False
        except OSError:
            continue
    return True


class Mill:
    """A Tidemill of its own: a home, ports, and the command."""

    def __init__(self, home):
        self.home, self.dagster, self.serving = home, free_port(), free_port()
        self.env = {
            **os.environ,
            "TIDEMILL_HOME": str(home),
            # Not "auto": where there is internet, a test would learn from the live market.
            "TIDEMILL_MARKET": "box",
            "TIDEMILL_EXCHANGE_PORT": str(free_port()),
            "TIDEMILL_BROKER_PORT": str(free_port()),
            "TIDEMILL_DAGSTER_PORT": str(self.dagster),
            "TIDEMILL_SERVING_PORT": str(self.serving),
            **CANARIES,
        }

    def run(self, *args, timeout=480):
        return subprocess.run(
            [sys.executable, "-m", "orchestration.cli", *args],
            env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
            umask=0,  # the most open one: what is made is for its user alone whatever a shell says
        )  # fmt: skip

    def status(self):
        found = json.loads(self.run("status", "--json").stdout)
        return found["healthy"], {row["name"]: row for row in found["services"]}

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.serving}{path}", timeout=5) as reply:
            return json.load(reply)

    def ask_dagster(self, query, **variables):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.dagster}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["data"]

    def runs(self):
        """Return what Dagster ran, newest first."""
        query = f"{{runsOrError(limit:200){{...on Runs{{results{{{_RUN}}}}}}}}}"
        found = self.ask_dagster(query)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]
