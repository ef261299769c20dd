"""Secrets as files: a service finds them in a directory of its home, so that no environment and no spec holds them."""

from __future__ import annotations

import json
from pathlib import Path

from domain.config import SECRETS, Places
from domain.errors import Unavailable, UsageError
from warehouse.files import remove, settle, stage

DIRECTORY = "TIDEMILL_SECRETS"
"""Names the directory for processes that a supervisor started; a person's own variables stand in the environment."""


def keep_secrets(places: Places) -> Path:
    """Write the secrets of a configuration to files that this user alone can read; return their directory.

    A secret that is no longer configured is removed. Any number of processes may do so at once.

    Raises
    ------
    Unavailable
        When the disk refuses.
    """
    directory = places.home.absolute() / "secrets"
    for name in SECRETS:
        path, value = directory / f"tidemill_{name}", getattr(places, name)
        text = (json.dumps(value) if isinstance(value, dict) else value) if value else ""
        if not text:
            remove(path)
        elif not _holds(path, text.encode()):
            settle(stage(path, text.encode(), 0o600), path)
    if directory.exists():
        directory.chmod(0o700)
    return directory


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unavailable(f"{path} cannot be read ({error.strerror}); remove it, then try again") from error


def kept_secrets(directory: str) -> dict[str, str]:
    """Return the secrets that ``keep_secrets`` wrote, by the names of their fields; none where there is no directory.

    Raises
    ------
    UsageError
        When one cannot be read.
    """
    if not directory:
        return {}
    kept = {}
    for name in SECRETS:
        path = Path(directory) / f"tidemill_{name}"
        try:
            kept[name] = path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}; remove it, the next 'tidemill up' writes it again") from error
    return kept
