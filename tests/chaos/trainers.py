"""One of two trainers that share a control database: told on stdin to open or to go on, it says what it published."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import structlog

from domain.config import Places
from domain.errors import LeaseLost
from domain.topics import FEATURES, FEATURES_WITH_TARGET
from orchestration.settings import read_project
from streaming import codec
from streaming.app import Context
from streaming.memory import Memory
from streaming.trainer import Trainer
from warehouse.control import Control
from warehouse.features import read_table
from warehouse.lake import Lake

EVER = 2**62
ROWS = 4


def fill(lake: Lake, context: Context, memory: Memory, since: int, until: int) -> None:
    """Put the lake's records of a window on their topics."""
    (instrument,) = context.project.instruments
    vectors = read_table(lake, "features", instrument, since, until)
    examples = read_table(lake, "examples", instrument, since, until)
    memory.append((FEATURES, 0), codec.encode_vectors(instrument, vectors))
    horizon_s = context.project.horizon_s
    memory.append((FEATURES_WITH_TARGET, 0), codec.encode_examples(instrument, examples, horizon_s))


def opened(context: Context) -> tuple[Trainer, int]:
    """Return a trainer that holds the lease, for the moment, and its epoch."""
    trainer = Trainer(context)
    trainer.open()
    return trainer, trainer._stations[0].lease.epoch


def go_on(trainer: Trainer) -> tuple[list[int], str]:
    """Learn and publish to the end, or until the lease is lost; return what was published, and the loss in words."""
    station, published = trainer._stations[0], []
    try:
        while True:
            before = station.version
            trainer.work(0.0)
            if station.version != before:
                published.append(station.version)
            elif not trainer._lag():
                trainer.save()
                trainer.close(clean=True)
                return published, ""
    except LeaseLost as error:
        trainer.close(clean=False)
        return published, str(error)


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for answers
    home, since = Path(sys.argv[1]), int(sys.argv[2])
    places = Places(home=home, config=home / "tidemill.toml")
    memory, had = Memory(), since
    memory._identities = dict.fromkeys((FEATURES, FEATURES_WITH_TARGET), "one broker for both")
    context = Context(read_project(places), places, Control.open(places.control), memory)
    lake, trainer = context.open_lake(read_only=True), None
    for line in sys.stdin:
        verb, number = line.split()
        said: dict[str, object] = {}
        if verb == "open":
            until = since + int(number) * ROWS * context.project.interval
            fill(lake, context, memory, had, until)
            had = until
            trainer, said["epoch"] = opened(context)
        elif trainer is not None:
            said["published"], said["lost"] = go_on(trainer)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
