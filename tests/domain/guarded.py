"""A process that loads pickles with its memory bounded and every open, exec and import reported.

Run as ``python -m tests.domain.guarded``: takes pickles by frame (length, bytes) from standard input, and answers with
one line of JSON for each: the outcome, what the interpreter's audit saw, by how many MiB the process grew, seconds.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

LENGTH = struct.Struct("<Q")
MEMORY = 2 << 30
LARGE = 50_000
_WATCHED = ("open", "exec", "compile", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "code.")
_ABROAD = ("datasets", "checks", "stream", "evaluate", "envs", "compat", "viz")


def river_modules():
    """Import and return River's modules, those that need a library we do not have left out."""
    import river

    for found in pkgutil.walk_packages(river.__path__, "river."):
        with contextlib.suppress(ImportError):
            yield importlib.import_module(found.name)


def judge(pickles):
    """Return what became of each pickle, tried in a process of its own; a crash of that process is an error here."""
    frames = b"".join(LENGTH.pack(len(data)) + data for data in pickles)
    done = subprocess.run(
        [sys.executable, "-m", "tests.domain.guarded"],
        input=frames,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RUST_BACKTRACE": "0"},
        capture_output=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(verdicts) == len(pickles), done.stderr[-2000:]
    return verdicts


def _main():
    from domain import pickles
    from domain.errors import ArtifactRefused

    for _ in river_modules():  # so that no honest import is left to be seen
        pass
    importlib.import_module("numpy.random._pickle")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seen, watching = [], [False]
    gc.collect()
    gc.freeze()
    sys.addaudithook(
        lambda event, args: (
            seen.append(f"{event} {args!r}"[:200]) if watching[0] and event.startswith(_WATCHED) else None
        )
    )
    while head := sys.stdin.buffer.read(LENGTH.size):
        data = sys.stdin.buffer.read(*LENGTH.unpack(head))
        seen.clear()
        before, began = _peak(anew=True), time.monotonic()
        watching[0] = True
        try:
            outcome = "loaded " + type(pickles.load(data)).__name__
        except ArtifactRefused as refusal:
            outcome, why = "refused", str(refusal)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the verdict
            outcome, why = f"escaped {error!r}", ""
        else:
            why = ""
        if len(data) > LARGE:
            gc.collect()  # what is built of a hostile pickle must also go without harm
        watching[0] = False
        line = {
            "outcome": outcome,
            "why": why[:300],
            "seen": seen,
            "mib": _peak() - before,
            "s": time.monotonic() - began,
        }
        sys.stdout.write(json.dumps(line) + "\n")


def _peak(*, anew=False):
    """Return the largest size in memory, MiB, since it was last counted anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    _main()
