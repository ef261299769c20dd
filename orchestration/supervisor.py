"""Local supervision: services as detached processes, each kept by its own shim and steered through files.

Nothing here stays resident: a ``Supervisor`` is a view of a directory; any number of them may act on it.
The rules of one service's life and death are in ``orchestration.shim``, its phases in ``orchestration.homes``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict, Unpack

from domain.errors import TidemillError, Unavailable, UsageError
from orchestration.homes import Home, Phase, Status
from orchestration.policy import STANDARD, Policy
from orchestration.processes import LAUNCH_S, end, end_group, launch_shim, signal_exact, tell
from orchestration.records import FINAL, Spec
from orchestration.shim import LOCK_HELD

__all__ = ["Changes", "Phase", "Policy", "Spec", "Status", "Supervisor", "inherited"]

INHERITED = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR"})  # and LC_*; all else comes from the spec
NOTHING: Mapping[str, str] = MappingProxyType({})
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LEAVING_S = 3.0  # what a shim may need to see by itself that it is to stop, and to be gone
_MARGIN_S = 5.0  # what a shim may need beyond its child's grace before it counts as hung
_POLL_S = 0.005


class Changes(TypedDict, total=False):
    """What ``restart`` may change; each replaces the whole former value."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None
    meta: Mapping[str, str]


class Supervisor:
    """Starts, stops and judges the services whose homes are ``root/<name>/``.

    Parameters
    ----------
    root : a directory on a local disk (its locks are the kernel's)
    policy : of what this supervisor starts or restarts

    Notes
    -----
    Every verb that acts waits its turn on the service's control lock, so that racing controllers follow one another,
    and returns when its effect can be seen. A caller killed half-way never leaves two copies; the next verb tidies up.
    """

    def __init__(self, root: Path, policy: Policy = STANDARD) -> None:
        self.root = root.absolute()
        self.policy = policy

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] = NOTHING,
        cwd: Path | None = None,
        meta: Mapping[str, str] = NOTHING,
    ) -> Status:
        """Make the service run with this specification; nothing is done when it already does.

        One that runs with another specification is restarted; one that ended, failed or was given up is started anew.

        Parameters
        ----------
        argv : command and arguments, found on the PATH of its environment
        env : the child's environment beside PATH, HOME, LANG, LC_*, TZ and TMPDIR
        cwd : working directory; the service's home when None
        meta : kept with the specification and part of it (configuration hash, code version)

        Returns
        -------
        The status once the command was executed; ``failed`` when it cannot be.

        Raises
        ------
        UsageError
            When the name is not of lower-case letters, digits, ``-`` and ``_``.
        Unavailable
            When another controller, or a process that cannot be ended, holds the service for too long.
        """
        home = self._home(name)
        wanted = self._spec(home, {"argv": argv, "env": env, "cwd": cwd, "meta": meta})
        with self._control(home):
            known, state = home.spec(), home.state()
            if known and state and state["phase"] in {"running", "backoff"} and home.shim():
                same = all(known[key] == wanted[key] for key in ("argv", "env", "cwd", "meta"))
                if same and state["generation"] == known["generation"] and not known["stop"]:
                    if known["policy"] != wanted["policy"]:
                        home.ask({**known, "policy": wanted["policy"]})  # from the next life on
                    return home.status()
            return self._renew(home, wanted, _reached_so_far(home) + 1)

    def restart(self, name: str, **changes: Unpack[Changes]) -> Status:
        """Replace the running process, if any, by a new generation, with the same or a changed specification.

        Raises
        ------
        UsageError
            When the service was never started.
        Unavailable
            As for ``start``.
        """
        home = self._home(name)
        before = home.spec()
        if before is None:
            raise UsageError(f"service {name} was never started; start it first")
        with self._control(home):
            known = home.spec() or before
            generation = _reached_so_far(home)
            former: Changes = {
                "argv": known["argv"],
                "env": known["env"],
                "cwd": Path(known["cwd"]),
                "meta": known["meta"],
            }
            return self._renew(home, self._spec(home, {**former, **changes}), generation + 1)

    def stop(self, name: str, grace_s: float | None = None) -> Status:
        """End the service: SIGTERM to its group, SIGKILL after the grace.

        Afterwards neither shim nor child nor any process of the child's group is left. A service that had ended by
        itself (``done``, ``failed``, ``crashed``, ``crash_loop``) keeps that phase; an absent one stays absent.

        Raises
        ------
        OSError
            When the disk refuses to record it; the service has been ended all the same.
        """
        refused: OSError | None = None
        home = self._home(name)
        if not home.exists():
            return home.status()
        with self._control(home):
            known, child, keeper = home.spec(), home.child(), home.shim()
            spec = known or self._spec(home, {"argv": [], "env": {}, "cwd": None, "meta": {}})
            grace = spec["policy"]["grace_s"] if grace_s is None else grace_s
            spec["generation"] = _reached_so_far(home)
            try:
                home.ask({**spec, "stop": True, "policy": {**spec["policy"], "grace_s": grace}})
            except OSError as error:
                refused = error
            if keeper:
                tell(keeper, signal.SIGTERM)
                end(keeper, grace + _MARGIN_S)
            _end_child(home, child or home.child(), grace)
            _await_holders(home)
            _end_holders(home, grace)
            state = home.state()
            if state is None or state["phase"] not in FINAL or state["generation"] < spec["generation"]:
                home.record_stopped(spec["generation"])
            if refused is not None:
                raise refused
            return home.status()

    def let_go(self) -> None:
        """Ask that no service is given another shim when its own is gone: the first step of stopping all.

        Shims that cannot be asked, as on a full disk, are ended at once and together: none is left to give one.
        """
        unasked = []
        for home in map(self._home, self.names()):
            try:
                with self._control(home):
                    spec = home.spec()
                    if spec is not None and spec["policy"].get("keep"):
                        home.ask({**spec, "policy": {**spec["policy"], "keep": False}})
            except (OSError, Unavailable):
                unasked.append(home)
        for keeper in filter(None, (home.shim() for home in unasked)):
            tell(keeper, signal.SIGTERM)

    def stop_all(self, first: Sequence[str] = (), last: Sequence[str] = ()) -> list[Status]:
        """Stop every service: side by side, but the named ones before and afterwards, one by one in their order.

        All are tried before the first error, if any, is raised.
        """
        names = self.names()
        errors: list[TidemillError | OSError] = []
        statuses: list[Status] = []

        def stop(name: str) -> None:
            try:
                statuses.append(self.stop(name))
            except (TidemillError, OSError) as error:
                errors.append(error)

        for name in (name for name in first if name in names):
            stop(name)
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(stop, [name for name in names if name not in {*first, *last}]))
        for name in (name for name in last if name in names):
            stop(name)
        if errors:
            raise errors[0]
        return statuses

    def kill(self, name: str, number: int) -> bool:
        """Send a signal to exactly the service's process; tell whether there was one."""
        child = self._home(name).child()
        return bool(child) and signal_exact(child, number)

    def status(self, name: str) -> Status:
        """Judge the service from its files and the processes they name; never waits."""
        return self._home(name).status()

    def wait(self, name: str, phases: Collection[Phase], timeout_s: float) -> Status:
        """Wait until the service is in one of the phases.

        Raises
        ------
        Unavailable
            When it is not, after ``timeout_s``; the message names the phase it is in, and why.
        """
        deadline = time.monotonic() + timeout_s
        while (status := self.status(name)).phase not in phases:
            if time.monotonic() > deadline:
                now = ", ".join(filter(None, (status.phase, status.reason, status.detail)))
                raise Unavailable(f"service {name} is not {' or '.join(phases)} after {timeout_s:g} s: {now}")
            time.sleep(_POLL_S)
        return status

    def names(self) -> list[str]:
        """Return the names of all services ever started here."""
        homes = (self._home(path.name) for path in self.root.glob("*/") if _NAME.fullmatch(path.name))
        return sorted(home.name for home in homes if home.exists())

    def spec(self, name: str) -> Spec | None:
        """Return what the service was last asked to be, with its ``meta``."""
        return self._home(name).spec()

    def log_path(self, name: str) -> Path:
        """Return the newest log file; older ones end in ``.1``, ``.2``."""
        return self._home(name).path / "log"

    def tail(self, name: str, n: int) -> list[str]:
        """Return the last ``n`` lines that the service printed, across rotations."""
        newest, text = self.log_path(name), b""
        spec = self.spec(name)
        kept = int(spec["policy"]["log_files"]) if spec else 0
        for file in (newest, *(newest.with_name(f"log.{i}") for i in range(1, kept))):
            if text.count(b"\n") > n or not file.exists():
                break
            text = file.read_bytes() + text
        return text.decode(errors="replace").splitlines()[-n:] if n > 0 else []

    def _home(self, name: str) -> Home:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a service name; use lower-case letters, digits, - and _")
        return Home(self.root / name)

    def _control(self, home: Home) -> AbstractContextManager[None]:
        return home.control(2 * (self.policy.grace_s + _MARGIN_S) + LAUNCH_S)

    def _spec(self, home: Home, wish: Changes) -> Spec:
        return {
            "argv": [str(part) for part in wish["argv"]],
            "env": dict(wish["env"]),
            "inherited": inherited(),
            "cwd": str((wish["cwd"] or home.path).absolute()),
            "meta": dict(wish["meta"]),
            "generation": 0,
            "stop": False,
            "policy": dataclasses.asdict(self.policy),
        }

    def _renew(self, home: Home, wanted: Spec, generation: int) -> Status:
        """Bring the new generation to life: through the living shim, or else through a new one."""
        home.ask({**wanted, "generation": generation})
        grace = self.policy.grace_s
        deadline = time.monotonic() + grace + _MARGIN_S
        while True:
            if keeper := home.shim():
                tell(keeper, signal.SIGHUP)
                while home.shim() == keeper and not _reached(home, generation) and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                if not _reached(home, generation):
                    end(keeper, 0.0)
            if not _reached(home, generation):
                _end_child(home, home.child(), grace)
                code = launch_shim(home.path)
                if code == LOCK_HELD and time.monotonic() < deadline:
                    _await_holders(home)
                    if not home.shim():
                        _end_holders(home, grace)
                    continue
            if not _reached(home, generation):
                lock = home.path / "lock"
                raise Unavailable(f"service {home.name} did not start: see {home.path / 'log'}, and who holds {lock}")
            return home.status()


def inherited() -> dict[str, str]:
    """Return what a service's environment takes over from ours."""
    return {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith("LC_")}


def _reached(home: Home, generation: int) -> bool:
    state = home.state()
    return state is not None and state["generation"] == generation and state["phase"] != "starting"


def _end_child(home: Home, child: str, grace_s: float) -> None:
    if not end_group(child, grace_s):
        raise Unavailable(f"service {home.name}: process {child} cannot be killed; its disk or its kernel hangs")


def _reached_so_far(home: Home) -> int:
    """Return the newest generation; where no record says it, after a living shim has written its own again."""
    if not home.generation():
        _await_holders(home)
    return home.generation()


def _await_holders(home: Home) -> None:
    """Wait until the home's lock is free, or held by a shim on record; for as long as either should take."""
    until = time.monotonic() + _LEAVING_S
    while home.held() and not home.shim() and time.monotonic() < until:
        time.sleep(_POLL_S)


def _end_holders(home: Home, grace_s: float) -> None:
    """End what holds the home's lock although no record names it: a shim or a child whose records are damaged."""
    left = home.holders() if home.held() else []
    for who in left:
        tell(who, signal.SIGTERM)
    for who in left:
        _end_child(home, who, grace_s)
