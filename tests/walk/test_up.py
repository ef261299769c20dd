"""The whole system as a newcomer meets it: up, look, kill, watch it heal, down. One long test, for it is one story."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from domain.services import STREAMS
from orchestration.deployment import DAGSTER
from orchestration.supervisor import Supervisor
from tests.walk.test_walk import gone

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EXPANDED = "%2C".join(f"global%40global%3A{group}" for group in ("history", "models", "model_versions", "services"))
PAGES = {
    "asset-graph": f"/asset-groups/?expanded={EXPANDED}",
    "initial-model": "/assets/initial_model?view=overview",
    "model-versions": "/assets/model_versions/simulated_BTC_USD?view=overview",
    "runs": "/runs",
    "automation": "/automation",
}
UNSTARTED = {"QUEUED", "NOT_STARTED", "STARTING"}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
NODES = ("bars", "features", "examples", "initial_model", "trainer", "predictor", "lander")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mill:
    """A Tidemill of its own: a home, ports, and the command."""

    def __init__(self, home):
        self.home, self.dagster, self.serving = home, free_port(), free_port()
        self.env = {
            **os.environ,
            "TIDEMILL_HOME": str(home),
            "TIDEMILL_BROKER_PORT": str(free_port()),
            "TIDEMILL_DAGSTER_PORT": str(self.dagster),
            "TIDEMILL_SERVING_PORT": str(self.serving),
        }

    def run(self, *args, timeout=240):
        return subprocess.run(
            [sys.executable, "-m", "orchestration.cli", *args],
            env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def status(self):
        found = json.loads(self.run("status", "--json").stdout)
        return found["healthy"], {row["name"]: row for row in found["services"]}

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.serving}{path}", timeout=5) as reply:
            return json.load(reply)

    def ask_dagster(self, query):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.dagster}/graphql",
            json.dumps({"query": query}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["data"]

    def runs(self):
        query = "{runsOrError(limit:50){...on Runs{results{jobName status startTime endTime tags{key value}}}}}"
        found = self.ask_dagster(query)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]


def wait_for(what, deadline_s, look):
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {deadline_s} s")


@pytest.fixture(scope="module")
def mill(tmp_path_factory):
    made = Mill(tmp_path_factory.mktemp("up") / "home")
    made.up = made.run("up", "--wait", "200")
    yield made
    made.run("down")
    assert gone(made.home), "tidemill down left a process behind"


@pytest.mark.timeout(600)
def test_up_serves_a_learning_model_heals_what_is_killed_and_down_leaves_nothing(mill):
    assert mill.up.returncode == 0, mill.up.stderr + "\n" + mill.run("logs", "-n", "5").stdout
    assert "first prediction" in mill.up.stdout

    (first, *_) = mill.get("/predictions")
    assert first["simulated"] is True
    assert first["model_version"] >= 1
    assert first["n_learned"] > 5_000
    wait_for("every service healthy", 60, lambda: mill.status()[0])

    def learned_more():
        newest = mill.get(f"/predictions?instrument={first['instrument']}")
        return newest["n_learned"] > first["n_learned"] and newest["model_version"] > first["model_version"]

    wait_for("a newer version that has learned more serves", 30, learned_more)

    for victim in ("trainer", "predictor"):
        pid = mill.status()[1][victim]["pid"]
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(
            f"{victim} redeployed", 60,
            lambda victim=victim, pid=pid: (row := mill.status()[1][victim])["healthy"] and row["pid"] != pid,
        )  # fmt: skip
        print(f"{victim}: healthy again {time.monotonic() - killed:.1f} s after kill -9")  # noqa: T201
        reasons = [run["tags"].get("tidemill/reason", "") for run in mill.runs() if run["jobName"] == "redeploy"]
        assert any(victim in reason and str(pid) in reason for reason in reasons), reasons

    assert not [run for run in mill.runs() if run["status"] == "FAILURE"]


def redeploys_of(mill, victim):
    """Return the redeploy runs of a service, newest first."""
    return [
        run for run in mill.runs()
        if run["jobName"] == "redeploy" and run["tags"].get("tidemill/reason", "").startswith(f"{victim}: ")
    ]  # fmt: skip


@pytest.mark.timeout(600)
def test_dagster_may_die_or_be_reloaded_at_any_moment_and_no_service_is_touched_or_started_twice(mill):
    """Daemon and web server killed with -9 while a redeploy is under way, and the code location reloaded."""
    supervisor = Supervisor(mill.home / "services")

    def lives(names=STREAMS):
        return {name: (supervisor.status(name).pid, supervisor.status(name).generation) for name in names}

    wait_for("every service healthy", 90, lambda: mill.status()[0])
    former = len(redeploys_of(mill, "lander"))
    before = lives()
    supervisor.kill("lander", signal.SIGKILL)
    wait_for(
        "a redeploy under way", 60,
        lambda: len(runs := redeploys_of(mill, "lander")) > former and runs[0]["status"] not in UNSTARTED,
    )  # fmt: skip
    for name in DAGSTER:
        supervisor.kill(name, signal.SIGKILL)
    for name in DAGSTER:
        supervisor.wait(name, {"running"}, 30.0)

    def healed():
        healthy, rows = mill.status()
        return healthy and rows["lander"]["pid"] != before["lander"][0]

    wait_for("the lander is healthy again", 180, healed)
    reload = 'mutation{reloadRepositoryLocation(repositoryLocationName:"orchestration.definitions"){__typename}}'

    def reloaded():
        try:
            return mill.ask_dagster(reload)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
        except OSError:  # the web server is not up yet
            return False

    wait_for("the code location is reloaded", 90, reloaded)
    wait_for("no run is under way", 90, lambda: all(run["status"] in ENDED for run in redeploys_of(mill, "lander")))
    others = [name for name in STREAMS if name != "lander"]
    assert lives(others) == {name: before[name] for name in others}

    newest = redeploys_of(mill, "lander")[:-former] if former else redeploys_of(mill, "lander")
    assert 1 <= len(newest) <= 2, "what was killed is done once more, and no oftener"
    assert before["lander"][1] < lives()["lander"][1] <= before["lander"][1] + len(newest)
    assert all(run["status"] == "FAILURE" for run in newest[1:]), "a killed run is reported failed"
    for later, sooner in itertools.pairwise(newest):
        assert later["startTime"] >= sooner["endTime"], "never two at once"


@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here")
def test_the_pages_a_person_opens_first_show_what_they_should_and_no_error(mill):
    """Screenshots are kept in the directory that TIDEMILL_SCREENSHOTS names."""
    from playwright.sync_api import sync_playwright

    kept = os.environ.get("TIDEMILL_SCREENSHOTS")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )  # fmt: skip
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        failures = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        for name, path in PAGES.items():
            page.goto(f"http://127.0.0.1:{mill.dagster}{path}")
            page.wait_for_load_state("networkidle")
            if name == "asset-graph":
                for node in NODES:
                    page.get_by_text(node, exact=True).first.wait_for(timeout=30_000)
            if name in {"initial-model", "model-versions"}:
                page.get_by_role("button", name="Plots").or_(page.locator("button:has-text('Plots')")).first.click()
                page.get_by_text("loss_volatility").first.wait_for(timeout=30_000)
            page.wait_for_timeout(2_500)
            text = page.inner_text("body")
            assert "Failed to load" not in text
            assert "PythonError" not in text
            if kept:
                page.screenshot(path=str(Path(kept) / f"{name}.png"))
        browser.close()
    assert not failures
