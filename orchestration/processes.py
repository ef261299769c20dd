"""Other processes as a controller meets them: signalled and waited for by exact identity, alone or as a group.

The identity is that of ``orchestration.shim``: ``pid@start``. On Linux no signal can reach a process that took over a
pid: the pid is opened as a pidfd, then the start time is compared, then the pidfd is signalled.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from domain.errors import Unavailable
from orchestration import shim
from orchestration.shim import alive, pid_of

_KILL_S = 5.0  # what the kernel may need to end a process after SIGKILL
_POLL_S = 0.01  # where the kernel offers nothing to wait on


SHIM = Path(shim.__file__)
LAUNCH_S = 30.0  # from a cold disk


def launch_shim(home: Path) -> int:
    """Run a shim until it has become a daemon and executed its service; return the exit code (``shim.STARTED`` ...).

    Raises
    ------
    Unavailable
        When that takes more than 30 s.
    """
    # -I and -S keep the environment, this package and site-packages out; -X utf8 gives any bytes back as they came.
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(SHIM), str(home)]
    with (home / "log").open("ab") as log:
        try:
            return subprocess.run(  # noqa: S603 - our own file
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},
                cwd="/",
                timeout=LAUNCH_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"service {home.name} was not executed within {LAUNCH_S:g} s; see {log.name}") from error


def signal_exact(who: str, number: int) -> bool:
    """Send a signal to exactly this process; tell whether it was there to receive it."""
    if not alive(who):  # spares most pidfds; the comparison that counts is the next one
        return False
    try:
        if not shim.LINUX:
            os.kill(pid_of(who), number)
            return True
        handle = os.pidfd_open(pid_of(who))
    except ProcessLookupError:
        return False
    try:
        if not alive(who):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(who: str, timeout_s: float) -> bool:
    """Wait until the process has ended (a zombie has); tell whether it did in time."""
    deadline = time.monotonic() + timeout_s
    if shim.LINUX and alive(who):
        try:
            handle = os.pidfd_open(pid_of(who))
        except ProcessLookupError:
            return True
        try:
            if alive(who):
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                poll.poll(max(0.0, timeout_s) * 1000)
        finally:
            os.close(handle)
    while alive(who):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def tell(who: str, number: int) -> None:
    """Send a signal so that even a paused process hears it."""
    if signal_exact(who, number):
        signal_exact(who, signal.SIGCONT)


def end(who: str, timeout_s: float) -> None:
    """Wait for a process to end by itself; kill it when it has not in time."""
    if not wait_gone(who, timeout_s):
        signal_exact(who, signal.SIGKILL)
        wait_gone(who, _KILL_S)


def group(leader: str) -> list[str]:
    """Return the living members of the process group that this process led, itself included.

    A group's number is not given away while it has members. So when the leader is gone, whoever is in the group is its
    offspring; when another process has the leader's pid, the group had died out and nobody is returned.
    """
    pid = pid_of(leader)
    if shim.identity(pid) not in {leader, None}:
        return []
    members = (shim.identity(member) for member in _group_pids(pid))
    return [who for who in members if who is not None]


def end_group(leader: str, grace_s: float) -> bool:
    """End a process and what is left of its group: SIGTERM, SIGCONT, a grace for the leader, SIGKILL.

    Returns
    -------
    Whether all are gone; False only when the kernel does not let go of one (5 s after SIGKILL).
    """
    if not leader:
        return True
    tell(leader, signal.SIGTERM)
    wait_gone(leader, grace_s)
    deadline = time.monotonic() + _KILL_S
    while members := group(leader):
        for who in members:
            signal_exact(who, signal.SIGKILL)
        for who in members:
            if not wait_gone(who, deadline - time.monotonic()):
                return False
    return True


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds, 0 when it is gone."""
    if not shim.LINUX:
        look = subprocess.run(["/bin/ps", "-axo", "pid=,rss="], capture_output=True, text=True, check=True)
        return sum(1024 * int(rss) for other, rss in map(str.split, look.stdout.splitlines()) if int(other) == pid)
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _group_pids(number: int) -> list[int]:
    if not shim.LINUX:
        look = subprocess.run(["/bin/ps", "-axo", "pid=,pgid="], capture_output=True, text=True, check=True)
        rows = (line.split() for line in look.stdout.splitlines())
        return [int(pid) for pid, in_group in rows if int(in_group) == number]
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(stat.rpartition(b")")[2].split()[2]) == number:
                pids.append(int(entry.name))
    return pids
