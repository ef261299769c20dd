"""The shim: one tiny process that keeps one service running and is gone when the service is.

``orchestration.processes.shim_command`` starts it without site-packages, so it and what it imports (``records``,
``processes``, ``siblings``) use the standard library only: it costs 12 MB and runs whatever is broken elsewhere.
The service's home holds

========== ====================================================================== ==========
file       what                                                                   written by
========== ====================================================================== ==========
spec.json  what to run: argv, environment, directory, policy; generation; or to stop  controller
state.json how it goes: phase, generation, shim, restarts, how it last ended       shim
child      identity of the service process, written before it begins              child
pulse      touched by a service that is watched for its pulse                     child
lock       held by shim and child together: free only when both are gone          kernel
ctl        held by the one controller at work                                     controller
log        what the service printed, rotated: log, log.1, ...                     shim
========== ====================================================================== ==========

SIGTERM stops the service and ends the shim. SIGHUP says that spec.json asks for something else: to stop, or to bounce
into another generation. Should a signal be lost, the order is only late: every 2 s the shim looks by itself. The same
look ends what is stopped (as by SIGSTOP) or has no pulse, see ``orchestration.vitals``, and gives siblings whose shim
was killed another one, see ``orchestration.siblings``.

Notes
-----
Not guaranteed: processes that leave the service's process group are not followed (a service may rightly launch others).

Weaker on macOS, which has neither pidfd nor a parent-death signal: a killed shim is avenged by a guard process on a
lifeline pipe. Should that be killed as well, the child is an orphan, for the next ``start`` to clear.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from orchestration.processes import LINUX, identity
from orchestration.records import FINAL, Damaged, Spec, State, read_spec, read_state, write_json
from orchestration.siblings import Siblings
from orchestration.vitals import PULSE, Vitals

STARTED, FAILED, LOCK_HELD = 0, 1, 3  # exit codes of the process that daemonises
EXIT_USAGE = 2  # a person's mistake: trying again cannot help
CHUNK = 1 << 16  # bytes, what a pipe holds
LOOK_S = 2.0  # how often the shim looks by itself whether its home is there and its orders are the same
PR_SET_PDEATHSIG = 1


class Shim:
    """One service's keeper.

    Parameters
    ----------
    home : directory of the service
    lock : descriptor of ``home/lock``, flocked; the child gets it too
    spec : what is asked for
    """

    def __init__(self, home: Path, lock: int, spec: Spec) -> None:
        self.home, self.lock, self.spec = home, lock, spec
        self.output, self.child_output = os.pipe()
        self.wake = listen()
        os.set_blocking(self.output, False)
        self.child: subprocess.Popen[bytes] | None = None
        self.guard: tuple[int, int] | None = None
        self.vitals: Vitals | None = None  # of the child
        self.siblings = Siblings(home)
        self.asked = ""  # "stop" or "bounce", until the child is gone
        self.ended = ""  # why the child was ended unasked, until it is buried
        self.due: float | None = None  # monotonic: end of a grace (child there) or of a back-off (none there)
        self.began = self.next_look = 0.0  # monotonic
        self.fails = 0
        self.recent = b""
        self.phase = "starting"
        self.state: State = {
            "phase": "starting",
            "generation": self.spec["generation"],
            "shim": identity(os.getpid()) or "",
            "child": "",
            "started_at": None,
            "restarts": 0,
            "reason": "",
            "detail": "",
            "exit_code": None,
        }
        former = self.recorded()
        if former and former["generation"] == spec["generation"] and former["phase"] not in FINAL:
            self.state |= {"restarts": former["restarts"] + 1, "reason": "its shim was killed"}
        self.enter("starting")

    def run(self) -> None:
        """Keep the service until it has ended for good."""
        while self.phase not in FINAL:
            wait = LOOK_S if self.due is None else min(LOOK_S, max(0.0, self.due - time.monotonic()))
            ready, _, _ = select.select([self.output, self.wake], [], [], wait)
            if self.output in ready:
                self.pump()
            for number in os.read(self.wake, 64) if self.wake in ready else b"":
                self.hear(number)
            if time.monotonic() >= self.next_look:
                self.next_look = time.monotonic() + LOOK_S
                self.obey(self.order())
                self.watch()
            self.look()

    def at_home(self) -> bool:
        """Tell whether the home is there, and still the one whose lock is held."""
        try:
            return os.path.samestat((self.home / "lock").stat(), os.fstat(self.lock))
        except FileNotFoundError:
            return False

    def watch(self) -> None:
        """Look at the child's vitals, at the record, and at the siblings."""
        if self.child is not None and self.vitals is not None and not self.asked and not self.ended:
            self.ended = self.vitals.failing()
            if self.ended:
                self.enter("restarting")  # first: while it dies it is neither stopped nor running
                self.signal_group(signal.SIGKILL)
        if self.recorded() != self.state:
            self.enter(self.phase)
        if not self.asked and self.at_home():
            with contextlib.suppress(OSError):
                self.siblings.look()

    def recorded(self) -> State | None:
        """Return what the record says of the service; None where it is lost or damaged."""
        try:
            return read_state(self.home)
        except (Damaged, OSError):
            return None

    def look(self) -> None:
        """Do what is due: bury the child, kill it after its grace, or start it after a back-off."""
        if self.child is not None and (code := self.exited(self.child)) is not None:
            self.bury(code)
        elif self.due is not None and time.monotonic() >= self.due:
            if self.child is None:
                self.spawn()
            else:
                self.due = None
                self.signal_group(signal.SIGKILL)

    def spawn(self) -> None:
        """Start the child of the newest spec; when that cannot be, the service has failed."""
        self.spec = self.read_spec()
        if self.spec["generation"] != self.state["generation"]:
            self.fails = 0
            self.state |= {
                "generation": self.spec["generation"],
                "restarts": 0,
                "reason": "",
                "detail": "",
                "exit_code": None,
            }
        self.due, self.recent = None, b""
        prctl = ctypes.CDLL(None).prctl if LINUX else None
        parent = os.getpid()

        def become_child() -> None:
            default_signals()
            if prctl is not None:
                prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
                if os.getppid() != parent:  # the shim died before the line above
                    os._exit(127)
                try:  # before exec: no service ever runs unrecorded
                    (self.home / "child").write_text(identity(os.getpid()) or "")
                except OSError as error:  # a full disk: a crash like any other, tried again
                    os.write(2, f"shim: cannot record the process: {error}\n".encode())
                    os._exit(1)

        try:
            self.child = subprocess.Popen(  # noqa: S603 - what the controller asked for
                self.spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=self.child_output,
                stderr=self.child_output,
                env={**self.spec["inherited"], **self.spec["env"], **self.pulse()},
                cwd=self.spec["cwd"],
                preexec_fn=become_child,  # noqa: PLW1509 - the shim has one thread
                pass_fds=(self.lock,),
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.state["exit_code"] = None  # of a life before this one
            self.enter("failed", reason="cannot execute", detail=str(error))
            return
        if not LINUX:
            (self.home / "child").write_text(identity(self.child.pid) or "")
            self.guard = guard(self.child.pid, self.spec["policy"]["grace_s"])
        self.began = time.monotonic()
        self.vitals = Vitals(self.home, self.child.pid, self.spec["policy"])
        with contextlib.suppress(OSError):
            self.state["child"] = (self.home / "child").read_text()
        self.enter("running", started_at=time.time_ns())

    def pulse(self) -> dict[str, str]:
        """Return the environment that asks the child for a pulse, and make the file that it touches.

        Where it cannot be made, as on a full disk, the child goes without one: its pulse is not watched then.
        """
        path = self.home / "pulse"
        if not self.spec["policy"].get("pulse_s"):
            return {}
        try:
            path.touch(0o600)
        except OSError:
            return {}
        return {PULSE: str(path)}

    def hear(self, number: int) -> None:
        """Act on a signal; SIGCHLD has done its work by waking the loop."""
        if number == signal.SIGTERM:
            self.obey("stop")
        elif number == signal.SIGHUP:
            self.obey(self.order())

    def order(self) -> str:
        """Return what is asked for beyond what runs: ``stop``, ``bounce`` or nothing."""
        if not self.at_home():
            return "stop"  # the home was deleted: nobody could ever stop this service again
        spec = self.read_spec()
        return "stop" if spec["stop"] else "bounce" if spec["generation"] != self.state["generation"] else ""

    def obey(self, order: str) -> None:
        """Begin to stop or to bounce. Stopping is not taken back, and SIGTERM is sent once: a second may mean "now"."""
        if not order:
            return
        first = not self.asked
        self.asked = "stop" if "stop" in {order, self.asked} else "bounce"
        if self.child is None:
            self.bury(None)
            return
        self.due = min(self.due or math.inf, time.monotonic() + self.read_spec()["policy"]["grace_s"])
        self.enter("stopping" if self.asked == "stop" else "restarting")
        if first:
            self.signal_group(signal.SIGTERM)
        self.signal_group(signal.SIGCONT)  # a paused process hears SIGTERM only when it goes on

    def read_spec(self) -> Spec:
        """Return what is asked for now; what was asked for last, should it be out of reach or damaged."""
        try:
            return read_spec(self.home) or self.spec
        except (Damaged, OSError):
            return self.spec

    def exited(self, child: subprocess.Popen[bytes]) -> int | None:
        """Return the child's exit code once it has one, with the rest of its group killed."""
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal_group(signal.SIGKILL)  # the zombie still owns the number, so the group is ours
            return child.wait()
        code = child.poll()
        if code is not None:
            self.signal_group(signal.SIGKILL)
        return code

    def bury(self, code: int | None) -> None:
        """Decide what follows the child's end (or, without a child, the end of its back-off)."""
        self.pump()
        if self.guard is not None:
            release(self.guard)
        if self.at_home():
            (self.home / "child").unlink(missing_ok=True)  # the number may be another's from now on
        asked = self.asked or self.order()
        ended = self.ended
        self.asked, self.ended, self.child, self.vitals, self.guard, self.due = "", "", None, None, None, None
        policy = self.spec["policy"]
        if code is not None:
            self.state |= {"exit_code": code, "reason": ended or describe(code), "detail": self.last_line()}
        if asked == "stop":
            self.enter("stopped", reason="requested")
        elif asked == "bounce":
            self.spawn()
        elif code == 0 and policy["zero_is_done"]:
            self.enter("done")
        elif code == EXIT_USAGE:
            self.enter("failed")
        else:
            if time.monotonic() - self.began >= policy["stable_s"]:
                self.fails = 0
            self.fails += 1
            if self.fails > policy["max_fails"]:
                self.enter("crash_loop" if policy["max_fails"] else "crashed")
                return
            self.state["restarts"] += 1
            self.due = time.monotonic() + min(policy["max_s"], policy["base_s"] * 2 ** (self.fails - 1))
            self.enter("backoff")

    def enter(self, phase: str, **changes: str | int) -> None:
        """Record the phase; a full disk costs the record, never the service."""
        self.phase = phase
        self.state |= {"phase": phase, **changes}  # type: ignore[typeddict-item]
        try:
            if self.at_home():
                write_json(self.home / "state.json", self.state)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(2, f"shim: cannot record phase {phase}: {error}\n".encode())

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the child's whole group, which exists until the child is waited for."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(self.child.pid, number)

    def pump(self) -> None:
        """Move what the child printed into the log; at most 1 MB, so that signals are heard in between."""
        for _ in range(16):
            try:
                chunk = os.read(self.output, CHUNK)
            except BlockingIOError:
                return
            self.recent = (self.recent + chunk)[-4096:]
            with contextlib.suppress(OSError):  # a full disk costs the line, never the service
                self.log(chunk)

    def log(self, chunk: bytes) -> None:
        """Append to the log, which is the shim's own stderr; rotate between two lines when it is full."""
        limit, kept = int(self.spec["policy"]["log_bytes"]), int(self.spec["policy"]["log_files"])
        if os.fstat(2).st_size + len(chunk) > limit:
            cut = chunk.rfind(b"\n") + 1
            write_all(chunk[:cut])
            chunk = chunk[cut:]
            names = [self.home / "log", *(self.home / f"log.{i}" for i in range(1, kept))]
            for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                if newer.exists():
                    newer.replace(older)
            new = os.open(names[0], os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
            os.dup2(new, 1)
            os.dup2(new, 2)
            os.close(new)
        write_all(chunk)

    def last_line(self) -> str:
        """Return the last line that the child printed, at most 500 characters."""
        lines = self.recent.decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:500] if lines else ""


def write_all(chunk: bytes) -> None:
    """Write to the log, whatever it takes."""
    while chunk:
        chunk = chunk[os.write(2, chunk) :]


def describe(code: int) -> str:
    """Say in words how a process ended.

    >>> describe(1), describe(-9)
    ('exit code 1', 'signal SIGKILL')
    """
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name if -code in signal.valid_signals() else -code}"


def default_signals() -> None:
    """Undo every signal setting inherited: a caller that ignores SIGTERM must not make a service deaf."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def listen() -> int:
    """Turn the shim's three signals into bytes on the returned descriptor."""
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return heard


def guard(child: int, grace_s: float) -> tuple[int, int]:
    """Fork a process that ends the child's group when the shim dies: for systems without a parent-death signal."""
    lifeline, held = os.pipe()
    if pid := os.fork():
        os.close(lifeline)
        return pid, held
    signal.set_wakeup_fd(-1)
    default_signals()
    os.close(held)
    os.read(lifeline, 1)  # nobody ever writes: this returns when the shim is gone
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while time.monotonic() < end:
            os.killpg(child, 0)
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
    os._exit(0)


def release(guarding: tuple[int, int]) -> None:
    """Dismiss the guard of a child that is gone."""
    pid, held = guarding
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(held)


def main(path: str) -> int:
    """Become a daemon that keeps the service at ``path``; return to the caller once the service has been executed."""
    home = Path(path)
    os.umask(0o077)  # what a service makes is for its user alone
    default_signals()
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    answer, report = os.pipe()
    if child := os.fork():
        os.close(report)
        os.waitpid(child, 0)
        return (os.read(answer, 1) or bytes([FAILED]))[0]
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(answer)
    lock = os.open(home / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(report, bytes([LOCK_HELD]))
        return LOCK_HELD
    try:
        spec = read_spec(home)
    except Damaged as error:
        os.write(2, f"shim: {error}\n".encode())
        return FAILED
    if spec is None:
        return FAILED
    shim = Shim(home, lock, spec)
    shim.spawn()
    with contextlib.suppress(BrokenPipeError):  # the caller was killed meanwhile; the service stays
        os.write(report, bytes([FAILED if shim.phase in FINAL else STARTED]))
    os.close(report)
    shim.run()
    return STARTED
