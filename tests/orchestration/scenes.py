"""A scene: one supervisor over real processes, and a record of every process that its services ever were."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from orchestration.processes import identity
from orchestration.supervisor import Policy, Supervisor

ROOT = Path(__file__).parents[2]
QUICK = Policy(base_s=0.02, grace_s=10.0)
PYTHON = [sys.executable, "-I", "-S", "-c"]

# Appends its pid to the file of its first argument, then does what the second says.
LIFE = """
import os, signal, subprocess, sys, time
def enter():
    with open(sys.argv[1], "a") as births:
        births.write(f"{os.getpid()} {time.monotonic_ns()}\\n")
"""
SLEEP = "enter(); time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); enter(); time.sleep(600)"
PARENT = "subprocess.Popen(['sleep', '600']); " + SLEEP
DEAF_PARENT = (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '600']); enter(); time.sleep(600)"
)


class Scene:
    """One supervisor, and a record of every process that its services ever were."""

    def __init__(self, root, policy=QUICK):
        self.root, self.births = root / "services", root / "births"
        self.it = Supervisor(self.root, policy)

    def command(self, what=SLEEP, births=None):
        return [*PYTHON, LIFE + what, str(births or self.births)]

    def born(self):
        lines = self.births.read_text().splitlines() if self.births.exists() else []
        return [int(line.split()[0]) for line in lines]

    def born_at(self):
        return [int(line.split()[1]) for line in self.births.read_text().splitlines()]

    def living(self):
        return [pid for pid in self.born() if identity(pid)]

    def run(self, name="trainer", what=SLEEP):
        """Start and wait until the service has entered."""
        before = len(self.born())
        status = self.it.start(name, self.command(what))
        until(lambda: len(self.born()) > before)
        return status

    def pause(self, pid):
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")

    def home(self, name="trainer"):
        return self.root / name


def until(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return result


def signals(pid, which):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith(which))
    # Signals 32 and 33 are the C library's own: no program can change them, and some parents leave them ignored.
    return mask & sum(1 << (number - 1) for number in signal.valid_signals())


def control(code, *arguments, **options):
    """Run a controller in a process of its own."""
    head = "import sys\nfrom pathlib import Path\nfrom orchestration.supervisor import Policy, Supervisor\n"
    argv = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)
