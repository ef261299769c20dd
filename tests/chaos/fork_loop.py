"""Thousands of kills in seconds: a warm parent forks a trainer, kills it at a random instant, and forks the next.

The parent has imported and compiled everything and opened nothing. A child takes the lease, loads the newest version
from the disk and learns on; what it needs is a pure function of offsets, so no broker takes part. When a round's input
is used up its last version is compared with the model that nobody disturbed.

``python -m tests.chaos.fork_loop --kills 10000 --seed 7`` runs it by hand.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import structlog

from tests.chaos.mill_in_memory import LINE, Setting, Told, places_of
from warehouse.control import Control
from warehouse.keys import model_key
from warehouse.registry import Registry
from warehouse.versions import Version

MEMORY = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
"""Where a sync costs nothing: the death of a process cannot lose what was written anyway."""

EARLY = 0.2
"""Share of the children that die while they load; the others die some turns after it, in the middle of the next one."""

MEAN_TURNS, MEAN_S = 2.0, 0.006
"""Mean life after loading: turns, each of which publishes a version, and then a moment as long as half a turn."""

Child = Callable[[Told, Path, Callable[[], object]], object]


@dataclass
class Outcome:
    """What a loop saw; ``faults`` must stay empty."""

    seed: int
    kills: int = 0
    rounds: int = 0
    versions: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def loop(kills: int, seed: int, told: Told, child: Child = Told.train) -> Outcome:
    """Kill ``kills`` trainers and say what was wrong afterwards."""
    rng, began, outcome = random.Random(seed), time.monotonic(), Outcome(seed)
    gc.freeze()  # a collection in a child would copy the parent's memory, page by page
    while outcome.kills < kills and not outcome.faults:
        root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        try:
            home = root / "home"
            told.prepare(home)
            while _ended_otherwise(told, home, rng, child, outcome, kills):
                outcome.kills += 1
            outcome.rounds += 1
            outcome.faults += faults_of(told, home, outcome)
        finally:
            shutil.rmtree(root)
    outcome.seconds = time.monotonic() - began
    return outcome


def _ended_otherwise(told: Told, home: Path, rng: random.Random, child: Child, outcome: Outcome, kills: int) -> bool:
    """Run one child; return whether it was killed (False: it came to its end, or the loop is over)."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live(told, home, child, said)
    os.close(said)
    if outcome.kills < kills:
        if rng.random() < EARLY:
            time.sleep(rng.expovariate(1 / (4 * MEAN_S)))
        else:
            for _ in range(1 + int(rng.expovariate(1 / MEAN_TURNS))):
                os.read(heard, 1)  # comes back empty when the child has ended
            time.sleep(rng.expovariate(1 / MEAN_S))
        os.kill(pid, signal.SIGKILL)
    os.close(heard)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        outcome.faults.append(f"a trainer ended with exit code {os.WEXITSTATUS(status)} after {outcome.kills} kills")
    return False


def _live(told: Told, home: Path, child: Child, said: int) -> None:
    code = 1
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        child(told, home, lambda: os.write(said, b"."))
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must never return into the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def faults_of(told: Told, home: Path, outcome: Outcome) -> list[str]:
    """Return what is wrong with a round's versions."""
    places = places_of(home)
    with Control.open(places.control) as control:
        registry = Registry(control, places.models, model_key(places))
        versions = registry.since(0, limit=1_000_000)
        outcome.versions += len(versions)
        newest = versions[-1]
        line = registry.open(newest).line
        found = [f"version {v.number}: {said}" for v, said in _regressions(versions)]
        if (line.n_learned, line.watermark) != (told.n_learned, told.end):
            found.append(f"learned {line.n_learned} of {told.n_learned} examples, up to {line.watermark}")
        if line.digest() != told.digest:
            found.append(f"the model is not the undisturbed one: {line.digest()[:12]}, not {told.digest[:12]}")
        files = {path.name for path in (home / "models").rglob("*.safetensors") if not path.name.startswith(".")}
        found += [f"{v.path.name} is missing" for v in versions if v.path.name not in files]
        if registry.newest(LINE) != newest:
            found.append("the newest version is not the last one published")
    return found


def _regressions(versions: list[Version]) -> list[tuple[Version, str]]:
    return [
        (now, f"went back from {before.n_learned} to {now.n_learned} examples, or grew from {now.parent}")
        for before, now in pairwise(versions)
        if now.n_learned <= before.n_learned or now.watermark <= before.watermark or now.parent != before.number
    ]


def main() -> int:
    """Run the loop from the command line; exit code 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fork_loop")
    parser.add_argument("--kills", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    outcome = loop(arguments.kills, arguments.seed, Told(Setting(seed=arguments.seed)))
    print(json.dumps(asdict(outcome)))  # noqa: T201 - the command's answer
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
