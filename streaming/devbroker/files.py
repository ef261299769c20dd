"""Files that are replaced whole or not at all, and the lock that keeps a data directory to one broker."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.errors import UsageError


def replace(path: Path, content: bytes) -> None:
    """Put content in the place of a file: a crash, even of the machine, leaves the old one or the new one."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make durable what names a directory has: that a file's content is on the disk says nothing of its name."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_directory(path: Path) -> None:
    """Make a directory where there is none, and its name and its parents' durable."""
    missing = [made for made in (path, *path.parents) if not made.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a data directory; the system lets go of it when the process dies, however it dies.

    Raises
    ------
    UsageError
        When another broker holds it, or it cannot be made.
    """
    try:
        make_directory(directory)
        file = (directory / "lock").open("a+")
    except OSError as error:
        raise UsageError(f"{directory}: cannot be a data directory: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UsageError(
                f"{directory} is in use by another dev broker (process {file.read().strip() or 'unknown'}); "
                "stop that one or choose another data directory"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
