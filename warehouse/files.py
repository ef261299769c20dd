"""Files that are whole or absent: atomic writes, and a lock that the kernel frees when its holder dies.

The one place that maps the errors of a disk that takes nothing more: full, read-only or failing, it is told by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from domain.errors import Unavailable
from warehouse.holders import holder_of

_POLL_S = 0.005


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file with ``data``: after a crash, even of the machine, it holds all of the old or all of the new.

    Parameters
    ----------
    path : its directory is created when missing

    Raises
    ------
    Unavailable
        When the disk refuses; the file still holds the old or already the new, and nothing is left beside it.
    """
    staged = stage(path, data)
    try:
        settle(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def stage(path: Path, data: bytes, mode: int | None = None) -> Path:
    """Return a synced temporary file with ``data``, in the directory of ``path`` and so on its disk.

    Parameters
    ----------
    mode : of the file, before anything is in it; None as the umask says

    Raises
    ------
    Unavailable
        When the disk refuses; then there is no such file.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _told(path):
        make_directory(path.parent)
        try:
            with staged.open("xb") as file:
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            staged.unlink(missing_ok=True)  # on a full disk above all: each attempt would leave one more
            raise
    return staged


def settle(staged: Path, path: Path) -> None:
    """Give a staged file its name, and make the name durable.

    Raises
    ------
    Unavailable
        When the disk refuses.
    """
    with _told(path):
        staged.replace(path)
        sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there, for good: it does not come back when the power fails."""
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory where there is none, and its name and its parents' durable: files in it are no safer than it."""
    missing = [made for made in (path, *path.parents) if not made.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def exclusive(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock file ``path`` alone among all processes and threads of this machine.

    Raises
    ------
    Unavailable
        When another holds it for all of ``wait_s`` seconds, or the disk refuses.

    Notes
    -----
    It polls rather than blocks, so that a deadline and a stop signal are honoured. The file is never removed; on a
    network file system the lock guarantees nothing.
    """
    deadline = time.monotonic() + wait_s
    with _told(path):
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o660)
    try:
        while not _locked(lock):
            if time.monotonic() > deadline:
                holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
                whose = holder_of(int(holder)) if holder.isdigit() else "a process that left no number"
                raise Unavailable(f"{path} has been held for {wait_s:g} s by {whose}")
            time.sleep(_POLL_S * (0.5 + random.random()))
        with contextlib.suppress(OSError):  # a full disk costs the holder's name, not the lock
            os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written ({error.strerror or error}); see to its disk, the next start goes on from there"
        ) from error
