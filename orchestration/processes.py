"""Processes: recognised by exact identity; looked at, signalled and waited for, alone or as a group.

The standard library only: the shim uses it, too, and runs whatever is broken elsewhere.

An identity is ``pid@start`` with the start time as the kernel counts it, so a recycled pid is never mistaken for ours.
On Linux no signal can reach a process that took over a pid: the pid is opened as a pidfd, then the start time is
compared, then the pidfd is signalled. On macOS identities come from ``ps`` (whole seconds, 10 ms a look), and a signal
is sent just after its target was compared, not atomically.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LINUX = sys.platform == "linux"
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text()[:8] if LINUX else ""  # start times count from the boot
ROOT = Path(__file__).parents[1]
LAUNCH_S = 30.0  # from a cold disk
_IDENTITY = re.compile(r"[1-9]\d*@.+")
_KILL_S = 5.0  # what the kernel may need to end a process after SIGKILL
_POLL_S = 0.01  # where the kernel offers nothing to wait on


def shim_command(home: Path) -> list[str]:
    """Return the command that becomes the shim of a home, to be run in ``/`` with an empty environment."""
    # -I and -S keep the environment and site-packages out; -X utf8 gives any bytes back as they came.
    code = "import sys; sys.path.append(sys.argv[1]); from orchestration import shim; sys.exit(shim.main(sys.argv[2]))"
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", code, str(ROOT), str(home)]


def launch_shim(home: Path) -> int | None:
    """Run a shim until it has become a daemon and executed its service.

    Returns
    -------
    The exit code (``shim.STARTED`` ...); None when that takes more than 30 s.
    """
    with (home / "log").open("ab") as log:
        try:
            return subprocess.run(  # noqa: S603 - our own file
                shim_command(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},
                cwd="/",
                timeout=LAUNCH_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def identity(pid: int) -> str | None:
    """Return ``pid@start`` (field 22 of ``/proc/pid/stat``), or None when the process is gone or a zombie."""
    return _look(pid)[0]


def _look(pid: int) -> tuple[str | None, str]:
    """Return a process's identity and the letter of its state."""
    if LINUX:
        fields = _stat(pid)
        if not fields or fields[0] in {b"Z", b"X"}:
            return None, ""
        return f"{pid}@{BOOT}+{int(fields[19])}", fields[0].decode()
    look = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    text = subprocess.run(look, env={"LC_ALL": "C", "TZ": "UTC"}, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed
    state, _, start = text.strip().partition(" ")
    return (f"{pid}@{' '.join(start.split())}" if start and not state.startswith("Z") else None), state[:1]


def alive(who: str) -> bool:
    """Tell whether exactly this process (``pid@start``, or any other text) still runs."""
    return is_identity(who) and identity(pid_of(who)) == who


def frozen(who: str) -> bool:
    """Tell whether exactly this process is stopped, as by SIGSTOP; one that a debugger holds is not."""
    return is_identity(who) and _look(pid_of(who)) == (who, "T")


def is_identity(text: str) -> bool:
    """Tell whether a text may be an identity: what a file holds may be damaged."""
    return _IDENTITY.fullmatch(text) is not None


def pid_of(who: str) -> int:
    """Return the pid of an identity.

    >>> pid_of("4711@0c1d2e3f+88123")
    4711
    """
    return int(who.partition("@")[0])


def descendants(pid: int) -> list[str]:
    """Return the identities of a process's children, their children and so on; none where the kernel lists none.

    It costs some 10 us a thread. Left out are those whose parent has ended, and all of them on macOS.
    """
    found: list[str] = []
    parents = [pid] if LINUX else []
    for parent in parents:
        for child in _children(parent):
            who = identity(child)
            if who is not None and child not in parents:
                parents.append(child)
                found.append(who)
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return


def holders(file: Path) -> list[str]:
    """Return the identities of the processes of this user that hold a file open; none on macOS."""
    try:
        wanted = file.stat()
    except FileNotFoundError:
        return []
    found = (identity(pid) for pid in (_pids() if LINUX else []) if pid != os.getpid() and _holds(pid, wanted))
    return [who for who in found if who is not None]


def _holds(pid: int, wanted: os.stat_result) -> bool:
    try:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.path.samestat(handle.stat(), wanted):
                    return True
            except OSError:
                continue
    except OSError:  # it is gone, or another user's
        pass
    return False


def signal_exact(who: str, number: int) -> bool:
    """Send a signal to exactly this process; tell whether it was there to receive it."""
    if not alive(who):  # spares most pidfds; the comparison that counts is the next one
        return False
    try:
        if not LINUX:
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
    if LINUX and alive(who):
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

    A group's number is not given away while it has members. So when the leader is gone, what is in the group is its
    offspring; when another process has the leader's pid, the group had died out and the list is empty.
    """
    if not is_identity(leader) or identity(pid := pid_of(leader)) not in {leader, None}:
        return []
    if LINUX and f"@{BOOT}+" not in leader:  # of another boot: by now the number is of strangers
        return []
    members = (identity(member) for member in _group_pids(pid))
    return [who for who in members if who is not None]


def end_group(leader: str, grace_s: float) -> bool:
    """End a process and what is left of its group: SIGTERM, SIGCONT, a grace for the leader, SIGKILL.

    Returns
    -------
    Whether all are gone; False only when the kernel does not let go of one (5 s after SIGKILL).
    """
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
    if not LINUX:
        look = subprocess.run(["/bin/ps", "-axo", "pid=,rss="], capture_output=True, text=True, check=True)
        return sum(1024 * int(rss) for other, rss in map(str.split, look.stdout.splitlines()) if int(other) == pid)
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _group_pids(number: int) -> list[int]:
    if not LINUX:
        look = subprocess.run(["/bin/ps", "-axo", "pid=,pgid="], capture_output=True, text=True, check=True)
        rows = (line.split() for line in look.stdout.splitlines())
        return [int(pid) for pid, in_group in rows if int(in_group) == number]
    return [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[2]) == number]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/pid/stat`` from the third on; none when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(b")")[2].split()  # the name before it may hold anything
