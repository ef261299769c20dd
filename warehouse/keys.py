"""The key that signs model versions: from the environment, or made once below home for this user alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from domain.config import Places
from domain.errors import UsageError
from warehouse.files import stage, sync_directory

LENGTH = 32
"""Characters at least: 64 hexadecimal ones are made here, 256 bits."""


def model_key(places: Places) -> bytes:
    """Return the key, making one when there is none; processes that race to be first all return the same.

    Raises
    ------
    UsageError
        When the key is too short, or its file can be read by others or not by us.
    """
    if places.model_key:
        return _long_enough(places.model_key, "TIDEMILL_MODEL_KEY")
    path = places.home.absolute() / "model.key"
    if not path.exists():
        _make(path)
    return _read(path)


def _make(path: Path) -> None:
    staged = stage(path, f"{secrets.token_hex(LENGTH)}\n".encode(), 0o600)
    try:
        # A link, not a rename: whoever comes second leaves the first one's key in place.
        with contextlib.suppress(FileExistsError):
            os.link(staged, path)
        sync_directory(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(f"{path} has mode {mode:04o}: others may know the key; chmod 600 or replace it")
            return _long_enough(file.read().strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; restore the key that signed the versions") from error


def _long_enough(key: str, where: str) -> bytes:
    if len(key) < LENGTH:
        raise UsageError(f"{where} has {len(key)} characters; a key has at least {LENGTH} random ones")
    return key.encode()
