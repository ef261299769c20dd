"""The whole system as a newcomer meets it: up, look, kill, watch it heal; its fixture takes it down."""

import contextlib
import itertools
import os
import signal
import stat
import time

import pytest

from domain.services import STREAMS
from orchestration.deployment import DAGSTER
from orchestration.supervisor import Supervisor
from tests.walk.up import ENDED, wait_for

PAGES = {
    "initial-model": "/assets/initial_model?view=overview",
    "runs": "/runs",
    "automation": "/automation",
}
UNSTARTED = {"QUEUED", "NOT_STARTED", "STARTING"}


@pytest.mark.timeout(600)
def test_up_serves_a_learning_model_heals_what_is_killed_and_down_leaves_nothing(mill):
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

    ours = [run["status"] for run in mill.runs() if run["jobName"] in {"bootstrap", "redeploy"}]
    assert "FAILURE" not in ours


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


def test_nothing_in_a_home_is_open_to_others_though_the_umask_was(mill):
    paths = [mill.home, *mill.home.rglob("*")]
    assert len(paths) > 50
    modes = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # services are at work
            modes[str(path.relative_to(mill.home))] = path.lstat().st_mode
    assert [name for name, mode in modes.items() if not stat.S_ISLNK(mode) and mode & 0o077] == []


@pytest.mark.timeout(600)
def test_the_pages_a_person_opens_first_show_what_they_should_and_no_error(screen):
    for name, path in PAGES.items():
        screen.open(path)
        screen.page.wait_for_load_state("networkidle")
        if name == "initial-model":
            screen.press("Plots")
            screen.page.get_by_text("loss_volatility").first.wait_for()
        screen.look(name)
