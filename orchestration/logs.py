"""What services have printed, newest lines last."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from domain.errors import UsageError
from domain.services import SERVICES
from orchestration.deployment import FOUNDATION, supervisor_of
from orchestration.settings import read_places


def print_logs(service: str, lines: int, *, follow: bool) -> None:
    """Print the newest lines of one service's log, or of all.

    Raises
    ------
    UsageError
        When there is no such service.
    """
    supervisor = supervisor_of(read_places())
    names = [name for name in (*FOUNDATION, *SERVICES) if name in supervisor.names()]
    if service and service not in names:
        raise UsageError(f"no service '{service}' was deployed here; there are {', '.join(names) or 'none'}")
    wanted = [service] if service else names
    for name in wanted:
        for line in supervisor.tail(name, lines):
            print(f"{name:18} {line}" if len(wanted) > 1 else line)  # noqa: T201
    if follow:
        _follow(supervisor.log_path(name) for name in wanted)


def _follow(paths: Iterable[Path]) -> None:
    subprocess.run(["tail", "-n", "0", "-F", *map(str, paths)], check=False)  # noqa: S603, S607
