"""A home is its owner's alone: directories 0700, files 0600, whatever the umask was when they were made."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import structlog

from domain.errors import UsageError

UMASK = 0o077
"""Of every process of ours, from its first line on: what it makes is for its user alone."""

OTHERS = 0o077
"""The bits of a mode that let others in."""


def keep_private(home: Path) -> None:
    """Make a home where there is none, and close one that others could enter, with all that is in it.

    Raises
    ------
    UsageError
        When it cannot be a home: a file, a link to nothing, or another user's.

    Notes
    -----
    A home may be a link. Links in it are left as they are, and what they lead to is its owner's business; a key behind
    one is refused where others may read it. A home that is closed protects what is in it, and is not searched.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
    except OSError as error:
        raise UsageError(f"{home} cannot be a home ({error.strerror}); name another directory") from error
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{home} belongs to another user (uid {found.st_uid}, this is {os.geteuid()}); name a directory of your own"
        )
    if not found.st_mode & OTHERS:
        return
    home.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
    closed = 1 + sum(_close(path) for path in _below(home))
    was = f"{stat.S_IMODE(found.st_mode):04o}"
    structlog.get_logger().warning("home closed to others", home=str(home), was=was, entries=closed)


def _below(home: Path) -> list[Path]:
    """Return all that is in a home but its key: one that others could read is refused, for they may know it."""
    found = [Path(top, name) for top, folders, files in os.walk(home) for name in (*folders, *files)]
    return [path for path in found if path != home / "model.key"]


def _close(path: Path) -> bool:
    """Take from others what they may; return whether there was something to take."""
    with contextlib.suppress(FileNotFoundError, PermissionError):  # another process at work removes files meanwhile
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
            return True
    return False
