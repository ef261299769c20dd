"""A start that a person gives up leaves nothing behind; a look at one that runs may be given up."""

import signal
import subprocess
import sys

from tests.walk.up import ROOT, Mill, gone


def interrupted(mill):
    """Begin ``tidemill up``, press Ctrl-C once it has started something, and return the exit code and the output."""
    with subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", "up"],
        env=mill.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as up:  # fmt: skip
        first = up.stdout.readline()
        up.send_signal(signal.SIGINT)
        return up.wait(300), first, up.stdout.read()


def test_ctrl_c_stops_what_a_start_has_started_and_nothing_that_ran_before(tmp_path):
    mill = Mill(tmp_path / "home")
    try:
        code, first, then = interrupted(mill)
        assert first.startswith("started; ")
        assert code == 130
        assert then.startswith("stopped: broker, ")
        assert gone(mill.home)

        assert mill.run("up", "--wait", "0").returncode == 0
        before = {name: row["pid"] for name, row in mill.status()[1].items() if row["phase"] == "running"}
        code, _, then = interrupted(mill)
        assert (code, "stopped" in then) == (130, False)
        after = mill.status()[1]
        assert {name: after[name]["pid"] for name in before} == before
    finally:
        mill.run("down")
    assert gone(mill.home)
