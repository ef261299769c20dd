"""The key that signs model versions: from the environment, or made once below home for this user alone.

A home's record knows the key by its fingerprint, never the key itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from domain.config import Places
from domain.errors import BadState, UsageError
from domain.fields import KEY_LENGTH, parse_key
from warehouse.files import stage, sync_directory
from warehouse.identity import founding, identity_of


def model_key(places: Places) -> bytes:
    """Return the key, making one when the home never had one; processes that race to be first all return the same.

    Raises
    ------
    UsageError
        When the key is too short, or its file can be read by others or not by us.
    BadState
        When it is not the key that the home had before.
    """
    identity = identity_of(places.home)
    founded = identity.mark("key") if identity is not None else None
    path = key_path(places)
    if not places.model_key and not path.exists():
        if founded is not None:
            raise BadState(f"the model key {path} is missing; 'tidemill doctor' says what it held and what to do")
        _make(path)
    key = configured_key(places)
    if founded is None:
        with founding(places.home, "key", fingerprint(key)) as founded:
            pass
    if founded is not None and founded.store != fingerprint(key):
        raise BadState(
            f"{_origin(places)} is not the key that signed this home's versions; 'tidemill doctor' says what to do"
        )
    return key


def configured_key(places: Places) -> bytes:
    """Return the key that is configured or lies below home, whichever key it is.

    Raises
    ------
    UsageError
        As :func:`model_key`; also when there is none.
    """
    if places.model_key:
        return _usable(places.model_key, "TIDEMILL_MODEL_KEY")
    return _read(key_path(places))


def fingerprint(key: bytes) -> str:
    """Return what tells a key from others and says nothing of it: 32 hexadecimal digits."""
    return hmac.new(key, b"tidemill model key", hashlib.sha256).hexdigest()[:32]


def key_path(places: Places) -> Path:
    """Return the file of the key, where none is configured."""
    return places.home.absolute() / "model.key"


def _origin(places: Places) -> str:
    return "TIDEMILL_MODEL_KEY" if places.model_key else str(key_path(places))


def try_key(places: Places) -> str:
    """Say where the key is; where there is none yet, none is made.

    Raises
    ------
    UsageError
        As :func:`configured_key`.
    """
    path = key_path(places)
    if not places.model_key and not os.path.lexists(path):
        return "none yet"
    if not places.model_key and path.is_file() and not path.stat().st_size and _is_founded(places):
        return "lost"  # what it signed, and what to do, is told where the home's stores are judged
    configured_key(places)
    return _origin(places)


def _is_founded(places: Places) -> bool:
    identity = identity_of(places.home)
    return identity is not None and identity.mark("key") is not None


def _make(path: Path) -> None:
    staged = stage(path, f"{secrets.token_hex(KEY_LENGTH)}\n".encode(), 0o600)
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
            return _usable(file.read().strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; restore the key that signed the versions") from error


def _usable(key: str, where: str) -> bytes:
    try:
        return parse_key(key).encode()
    except ValueError as error:
        raise UsageError(f"{where} {error}") from error
