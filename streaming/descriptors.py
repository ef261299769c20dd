"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress


def raised_file_limit() -> int:
    """Raise the limit of open files as far as this user may, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
