"""What tests left behind: processes that live below the session's directory after all fixtures are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

ENDS_WITHIN_S = 20.0
"""For what was asked to end and is about to."""


def end_all(root: Path, home: str) -> list[str]:
    """End every process of this session that is still there; return what had to be ended.

    A daemonised process is no child of ours any more, but its home is a test's temporary directory, whose name is the
    test's; and every other process has inherited the session's own ``TIDEMILL_HOME``.

    Parameters
    ----------
    root : the session's temporary directory
    home : its ``TIDEMILL_HOME``
    """
    marks = (f"{root}/".encode(), f"TIDEMILL_HOME={home}\0".encode())
    deadline = time.monotonic() + ENDS_WITHIN_S
    while (found := _marked(marks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    while left := _marked(marks):  # a shim's child may be born meanwhile
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        found |= left
    return [f"{pid}: {what}" for pid, what in found.items()]


def _marked(marks: Sequence[bytes]) -> dict[int, str]:
    """Return the living processes whose command, environment or directory has a mark, with command and mark."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            told = command + b"\0" + (entry / "environ").read_bytes() + bytes((entry / "cwd").readlink()) + b"/"
        except OSError:
            continue
        if int(entry.name) in {os.getpid(), os.getppid()}:
            continue
        for mark in marks:
            if mark in told:
                where = told[told.index(mark) :].split(b"\0")[0].decode(errors="replace")
                shown = command.replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = f"{shown[:120]} ({where[:200]})"
    return found
