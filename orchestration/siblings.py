"""Siblings: every shim looks after the services next to its own whose shims were killed.

A shim that is killed takes its child along. A service whose policy says ``keep`` is then given a new shim by the first
sibling that sees it; others are for whoever tends them. A shim that was stopped, as by SIGSTOP, is continued.

Two watchers never start two: one acts only while it holds the control lock, as every controller does, and a shim runs
only while it holds the kernel's lock on its home. The standard library only, as the shim.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

from orchestration.processes import LAUNCH_S, alive, frozen, group, shim_command, signal_exact
from orchestration.records import FINAL, Damaged, Spec, State, read_spec, read_state

BASE_S, MAX_S = 1.0, 60.0
"""Back-off before the n-th attempt in a row for one sibling, doubled each time."""

STEADY_S = 60.0
"""A sibling that was seen alive for so long after an attempt starts with the first back-off again."""


class Launch:
    """A new shim on its way; the sibling's control lock is held until it is there or has failed."""

    def __init__(self, home: Path, control: int) -> None:
        self.control, self.until = control, time.monotonic() + LAUNCH_S
        with (home / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own file
                shim_command(home), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={}, cwd="/"
            )

    def over(self) -> bool:
        """Tell whether it has ended; one that takes too long is ended."""
        if self.process.poll() is None:
            if time.monotonic() >= self.until:
                self.process.kill()
            return False
        release(self.control)
        return True


class Siblings:
    """The services next to one's own.

    Parameters
    ----------
    own : one's own home
    """

    def __init__(self, own: Path) -> None:
        self.own = own
        self.launches: dict[Path, Launch] = {}
        self.tries: dict[Path, tuple[int, float]] = {}  # how many in a row, and when the last was, monotonic
        self.orphans: dict[str, float] = {}  # child whose shim is gone -> when it is killed, monotonic

    def look(self) -> None:
        """Look at each once; never waits."""
        self.launches = {home: launch for home, launch in self.launches.items() if not launch.over()}
        for home in self.own.parent.iterdir():
            if home != self.own and home not in self.launches:
                with contextlib.suppress(OSError, Damaged):
                    self._look_at(home)

    def _look_at(self, home: Path) -> None:
        try:
            state = read_state(home)
        except Damaged:  # whether a shim is there then, its lock tells
            state = None
        if state is not None and alive(state["shim"]):
            if frozen(state["shim"]):
                signal_exact(state["shim"], signal.SIGCONT)
            if home in self.tries and time.monotonic() - self.tries[home][1] > STEADY_S:
                del self.tries[home]
            return
        if not _lost(read_spec(home), state):
            return
        control = try_lock(home / "ctl")
        if control is None:  # a controller is at work
            return
        try:
            if self._may_start(home):
                count, _ = self.tries.get(home, (0, 0.0))
                self.tries[home] = (count + 1, time.monotonic())
                self.launches[home] = Launch(home, control)
        finally:
            if home not in self.launches:
                release(control)

    def _may_start(self, home: Path) -> bool:
        """Tell whether it is still lost, its back-off is over, and nothing of its former life is left."""
        try:
            state = read_state(home)
        except Damaged:
            state = None
        spec = read_spec(home)
        if spec is None or not _lost(spec, state) or (state is not None and alive(state["shim"])):
            return False
        count, last = self.tries.get(home, (0, 0.0))
        if count and time.monotonic() - last < min(MAX_S, BASE_S * 2.0 ** (count - 1)):
            return False
        if not self._alone(home, spec["policy"]["grace_s"]):
            return False
        lock = try_lock(home / "lock")
        if lock is None:
            return False
        release(lock)
        return True

    def _alone(self, home: Path, grace_s: float) -> bool:
        """Tell whether neither the child is left, asked to end by its shim's death, nor one of its group.

        The child has a grace, what it leaves behind has none.
        """
        with contextlib.suppress(FileNotFoundError):
            child = (home / "child").read_text(errors="replace")
            if members := group(child):
                now = time.monotonic()
                due = self.orphans.setdefault(child, now + grace_s)
                waits = alive(child) and now < due
                for who in members:
                    signal_exact(who, signal.SIGCONT if waits else signal.SIGKILL)
                return False
            self.orphans.pop(child, None)
        return True


def _lost(spec: Spec | None, state: State | None) -> bool:
    """Tell whether a service without a shim should have one."""
    if spec is None or spec["stop"] or not spec["policy"].get("keep"):
        return False
    return state is None or state["phase"] not in FINAL or state["generation"] < spec["generation"]


def try_lock(file: Path) -> int | None:
    """Return a descriptor that holds the file's lock, or None when another process holds it."""
    handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def release(handle: int) -> None:
    """Give a lock back."""
    fcntl.flock(handle, fcntl.LOCK_UN)  # not by closing: a fork of this process may hold a copy
    os.close(handle)
