"""A service's home directory as controllers see it: what was asked for, how it goes, and whose turn it is to act.

The files are described in ``orchestration.shim``, which writes half of them. A damaged one is no reason to stop: what
it says is taken from the others, or from the processes that hold the home's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

from domain.errors import Unavailable
from orchestration.processes import alive, frozen, holders, is_identity, pid_of
from orchestration.records import FINAL, Damaged, Spec, State, read_spec, read_state, write_json

Phase = Literal[
    "absent",  # never started
    "starting",  # a shim is on its way, its child is not there yet
    "restarting",  # a newer generation is on its way, or the child's death is just being noticed
    "running",  # shim and child both are the recorded processes
    "frozen",  # they are, but the child is stopped, as by SIGSTOP; its shim ends it soon
    "backoff",  # waiting to start again after a crash
    "crashed",  # ended by itself, and to restart it is another's business (``Policy.max_fails`` is 0)
    "crash_loop",  # given up after too many crashes in a row
    "failed",  # cannot be executed, or exit code 2: a person's mistake
    "done",  # exit code 0: finished
    "stopping",  # SIGTERM sent
    "stopped",  # ended on request
    "lost",  # the shim was killed, and the child with it
    "orphan",  # the shim was killed and the child lives on
    "damaged",  # a record cannot be read; ``reason`` says which
]
_POLL_S = 0.005


@dataclasses.dataclass(frozen=True)
class Status:
    """How a service is.

    Attributes
    ----------
    generation : counts what was asked for by ``start`` and ``restart``; this is the one in force
    pid, shim_pid : of the living processes, else None
    started_at : of the present or last child, ns since epoch UTC
    restarts : after crashes, within this generation
    reason, detail, exit_code : how the last child ended (``exit code 1``, its last line, 1; negative for a signal)
    """

    name: str
    phase: Phase
    generation: int = 0
    pid: int | None = None
    shim_pid: int | None = None
    started_at: int | None = None
    restarts: int = 0
    reason: str = ""
    detail: str = ""
    exit_code: int | None = None

    @property
    def last_words(self) -> str:
        """Its last line where it ended with an error, or why it cannot be executed; nothing where a signal ended it."""
        return self.detail if self.exit_code is None or self.exit_code > 0 else ""


class Home:
    """One service's directory; every look reads the files anew.

    Parameters
    ----------
    path : its last part is the service's name
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def spec(self) -> Spec | None:
        """Return what was last asked for; None when nothing ever was, or the record is damaged."""
        try:
            return read_spec(self.path)
        except Damaged:
            return None

    def state(self) -> State | None:
        """Return what the shim last recorded; None before the first shim, or when the record is damaged."""
        try:
            return read_state(self.path)
        except Damaged:
            return None

    def generation(self) -> int:
        """Return the newest generation that was asked for or reached; 0 when none ever was."""
        spec, state = self.spec(), self.state()
        return max(spec["generation"] if spec else 0, state["generation"] if state else 0)

    def child(self) -> str:
        """Return the identity of the service's process, alive or not; empty when it ended in order."""
        try:
            child = (self.path / "child").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        if is_identity(child):
            return child
        state = self.state()
        return state["child"] if state else ""

    def shim(self) -> str:
        """Return the identity of the living shim, or an empty text."""
        state = self.state()
        return state["shim"] if state and alive(state["shim"]) else ""

    def held(self) -> bool:
        """Tell whether a shim or a child holds the lock, whatever the records say."""
        return _is_held(self.path / "lock")

    def holders(self) -> list[str]:
        """Return the identities of the processes that hold the lock; it takes some 50 ms."""
        return holders(self.path / "lock")

    def exists(self) -> bool:
        """Tell whether anything was ever started here."""
        return any((self.path / file).exists() for file in ("spec.json", "state.json", "child", "lock"))

    def ask(self, spec: Spec) -> None:
        """Record what is asked for."""
        write_json(self.path / "spec.json", spec)

    def record_stopped(self, generation: int) -> None:
        """Record a stop in the place of a shim that cannot."""
        state: State = self.state() or _no_state(generation)
        stopped: State = {**state, "phase": "stopped", "generation": generation, "shim": "", "reason": "requested"}
        write_json(self.path / "state.json", stopped)

    @contextlib.contextmanager
    def control(self, timeout_s: float) -> Iterator[None]:
        """Be the only controller of this service for a while, or raise ``Unavailable`` after the timeout."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # the spec may hold secrets, the log anything
        handle = os.open(self.path / "ctl", os.O_CREAT | os.O_RDWR, 0o600)
        deadline = time.monotonic() + timeout_s
        try:
            while not _try_lock(handle):
                if time.monotonic() > deadline:
                    raise Unavailable(f"service {self.name} is being acted on by another controller; try again")
                time.sleep(_POLL_S)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # not by closing: a fork of this process may hold a copy
        finally:
            os.close(handle)

    def status(self) -> Status:
        """Judge the service from its files and the processes they name; takes no lock, costs some 0.1 ms."""
        try:
            spec, state = read_spec(self.path), read_state(self.path)  # in this order: the state is never the older one
        except Damaged as error:
            return self._damaged(str(error))
        child = self.child()
        if spec is None:
            return Status(self.name, "absent")
        state = state or _no_state(0)
        kept, lives = alive(state["shim"]), alive(child)
        if not kept and not lives:
            state = self.state() or state  # it may have ended while we looked
        pending = state["generation"] < spec["generation"]
        phase = state["phase"]
        if kept and spec["stop"]:
            phase = phase if phase in FINAL else "stopping"
        elif kept:
            phase = (
                "restarting" if pending or (phase == "running" and not (lives and child == state["child"])) else phase
            )
            phase = "frozen" if phase == "running" and frozen(child) else phase
        elif pending and self._busy():
            phase = "starting"
        elif pending or phase not in FINAL:
            phase = "orphan" if lives else "lost"
        return Status(
            name=self.name,
            phase=cast("Phase", phase),
            generation=state["generation"],
            pid=pid_of(child) if lives else None,
            shim_pid=pid_of(state["shim"]) if kept and phase not in FINAL else None,  # it is only leaving
            started_at=state["started_at"],
            restarts=state["restarts"],
            reason=state["reason"],
            detail=state["detail"],
            exit_code=state["exit_code"],
        )

    def _damaged(self, damage: str) -> Status:
        state, child, kept = self.state(), self.child(), self.shim()
        return Status(
            self.name,
            "damaged",
            generation=state["generation"] if state else 0,
            pid=pid_of(child) if alive(child) else None,
            shim_pid=pid_of(kept) if kept else None,
            reason=f"{self.path}: {damage}; 'tidemill up' writes it again, 'tidemill down' stops what runs",
        )

    def _busy(self) -> bool:
        """Tell whether a controller is at work; looking may cost that controller one turn of its polling, no more."""
        return _is_held(self.path / "ctl")


def _is_held(file: Path) -> bool:
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _no_state(generation: int) -> State:
    return {
        "phase": "lost",
        "generation": generation,
        "shim": "",
        "child": "",
        "started_at": None,
        "restarts": 0,
        "reason": "",
        "detail": "",
        "exit_code": None,
    }
