"""Holders: which process holds a lock that does not move, what it is, and whether it is stopped.

On Linux the kernel tells; elsewhere nothing is known, and nothing is made up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_WRITE_BYTE = 120
"""Of a database's ``-shm`` file: the byte that whoever writes to the write-ahead log holds.

The SQLite file format, section 2.3: WAL locks are at offset 120, WAL_WRITE_LOCK is the first of them.
"""

_FILE_BYTES = range(0x40000000, 0x40000000 + 512)
"""Of the database itself: PENDING, RESERVED and SHARED, held exclusively while the log is folded into the file."""

_STOPPED = frozenset("Tt")
_SHOWN = 80


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes
    ----------
    pid : its number, as this process sees it
    command : what it runs, as a person would type it; empty when that cannot be read
    stopped : whether it is stopped (SIGSTOP, Ctrl-Z, a debugger): it holds the lock until it goes on or ends
    """

    pid: int
    command: str
    stopped: bool

    def __str__(self) -> str:
        """Say who it is and, when it is stopped, what to do."""
        who = f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"
        if not self.stopped:
            return f"{who}; look at that process"
        return f"{who}, which is stopped; 'kill -CONT {self.pid}' lets it go on, 'kill -KILL {self.pid}' ends it"


def holder_of(pid: int) -> Holder:
    """Return what is known of a process that holds a lock."""
    return Holder(pid, _command(pid), _state(pid) in _STOPPED)


def writer_of(database: Path) -> Holder | None:
    """Return the process that holds SQLite's write lock on a database; None when none does, or none can be named.

    Parameters
    ----------
    database : the file itself, in WAL mode

    Notes
    -----
    It reads the kernel's table of locks and the files' numbers. It never opens the database or its ``-shm`` file: to
    close one drops every lock that this process holds on it. Processes of another container are not seen.
    """
    try:
        table = Path("/proc/locks").read_text("ascii")
    except OSError:
        return None
    database = database.resolve()  # as SQLite does before it names the other file
    wanted = {
        _number(database.with_name(database.name + "-shm")): range(_WRITE_BYTE, _WRITE_BYTE + 1),
        _number(database): _FILE_BYTES,
    }
    for line in table.splitlines():
        # 7: POSIX  ADVISORY  WRITE 4711 fd:01:1234 120 120; with "->" behind the number when it only waits
        fields = line.split()
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":  # noqa: PLR2004 - as above
            continue
        pid, file, first = int(fields[4]), fields[5], int(fields[6])
        if pid > 0 and first in wanted.get(file, ()):
            return holder_of(pid)
    return None


def _number(path: Path) -> str:
    """Return a file's number as the table of locks writes it; empty when there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def _command(pid: int) -> str:
    """Return a process's command: ``tidemill run trainer`` for ours, whatever interpreter and module it is."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return ""
    if "orchestration.cli" in words:
        words = ["tidemill", *words[words.index("orchestration.cli") + 1 :]]
    return " ".join(" ".join(words).split())[:_SHOWN]
