"""Vitals of a service's process: that it is not stopped, and that its pulse goes.

Time counts by the looks: an interval in which the shim itself did not look, such as a suspended machine, counts as two
looks at most, and the wall clock counts for nothing. The standard library only, as the shim.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

from orchestration.processes import descendants, frozen, identity, signal_exact

PULSE = "TIDEMILL_PULSE"
"""Environment variable: the file that a process touches about once a second while its serving loop goes."""

START_S = 120.0
"""A process may take so long to its first pulse: imports from a cold disk, on a busy machine."""

FROZEN_S = 5.0
"""How long a process may be stopped where its specification does not say: its neighbours wait for ten seconds."""

GAP_S = 4.0
"""What the time between two looks counts as at most."""


class Vitals:
    """What is watched of one process, from its start on.

    Parameters
    ----------
    home
        Of the service; ``home/pulse`` is what it touches.
    pid : int
        Of the process; it is not waited for while this is in use.
    policy
        ``frozen_s``: seconds for which it may be stopped; ``pulse_s``: seconds that may pass between two pulses.
        0 turns the watch off.
    """

    def __init__(self, home: Path, pid: int, policy: Mapping[str, float]) -> None:
        self.pulse, self.who = home / "pulse", identity(pid) or ""
        self.frozen_s, self.pulse_s = policy.get("frozen_s", FROZEN_S), policy.get("pulse_s", 0.0)
        self.looked = time.monotonic()
        self.stopped: dict[str, float] = {}  # identity -> seconds
        self.touched = self._touched()
        self.still, self.patience_s = 0.0, max(self.pulse_s, START_S)

    def failing(self) -> str:
        """Say why the process must be ended, empty when it need not be; end what is frozen among its descendants."""
        now = time.monotonic()
        passed, self.looked = min(now - self.looked, GAP_S), now
        return self._frozen(passed) or self._without_pulse(passed)

    def _frozen(self, passed: float) -> str:
        if not self.who or not self.frozen_s:
            return ""
        family = [self.who, *descendants(int(self.who.partition("@")[0]))]
        self.stopped = {who: self.stopped.get(who, -passed) + passed for who in family if frozen(who)}
        for who, seconds in self.stopped.items():
            if seconds >= self.frozen_s:
                if who == self.who:
                    return f"frozen: stopped for {seconds:.0f} s"
                signal_exact(who, signal.SIGKILL)
        return ""

    def _without_pulse(self, passed: float) -> str:
        touched = self._touched()
        if touched != self.touched:
            self.touched, self.still, self.patience_s = touched, 0.0, self.pulse_s
            return ""
        self.still += passed
        if not self.pulse_s or touched is None or self.still < self.patience_s:
            return ""
        return f"hung: no pulse for {self.still:.0f} s"

    def _touched(self) -> int | None:
        """Return when the pulse last went, by whatever clock; None where there is no such file."""
        try:
            return self.pulse.stat().st_mtime_ns
        except OSError:
            return None
