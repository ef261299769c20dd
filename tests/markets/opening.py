"""Open recorded files in a process of its own: ``python -m tests.markets.opening FILE...`` prints what came of it.

The first line is the refusal, or nothing; the second the most memory that the process has held, in MB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from domain.errors import UsageError
from markets.recorded import Recorded


def main(paths: list[str]) -> None:
    """Open the files."""
    refusal = ""
    try:
        Recorded([Path(path) for path in paths])
    except UsageError as error:
        refusal = str(error)
    print(refusal)  # noqa: T201 - its answer
    # Not the resource usage: what the parent held when it forked counts there.
    held = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(int(held) // 1024)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
