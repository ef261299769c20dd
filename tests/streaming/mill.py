"""All services in one process on the transport in memory: real code, real lake, real registry, a clock set by hand."""

from __future__ import annotations

from pathlib import Path

from assets.training import train_initial
from domain.config import Places, Project
from domain.topics import TRADES
from streaming.app import Context
from streaming.dead_letters import Filed, read_letters
from streaming.featurizer import Featurizer
from streaming.lander import Lander
from streaming.memory import Memory
from streaming.predictor import Predictor
from streaming.serving import Board
from streaming.trainer import Trainer
from tests.domain.samples import LINEAR, RLS, SECOND, START, market
from warehouse.control import Control
from warehouse.features import read_table
from warehouse.lake import Lake

NAMES = ("a:B", "a:C")


class Hand:
    """A clock that is moved by hand."""

    now = 1_000.0

    def time_ns(self):
        return int(self.now * 1e9)

    def monotonic(self):
        return self.now


def trades_of(partition, n):
    """Return an instrument's trades as records."""
    table = market(11 + partition, n, per_bar=1.5, gaps=0.01)
    rows = zip(*(column.tolist() for column in vars(table).values()), strict=True)
    return [
        b'{"instrument":"%s","ts_event":%d,"trade_id":%d,"price":%a,"size":%a,"side":%d}'
        % (NAMES[partition].encode(), ts, number, price, size, side)
        for ts, number, price, size, side in rows
    ]


class Mill:
    """Featurizer, trainer, predictor and lander over one log."""

    def __init__(self, home: Path, source: str = TRADES) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.project = Project(
            instruments=NAMES,
            interval=SECOND,
            horizon=5 * SECOND,
            market={"source": "recorded", "path": ("x",)},
            publish={"examples": 50, "every_s": 0},
            fleet=(RLS, LINEAR),
        )
        self.places, self.memory, self.clock = Places(home=home), Memory(), Hand()
        self.control = Control.open(self.places.control)
        self.context = Context(self.project, self.places, self.control, self.memory, self.clock, instance="test")
        self.source = source
        with Lake.open(self.places) as lake:
            for name in NAMES:
                train_initial(lake, self.control, self.context.registry, self.project, name, 0, START)
        self.open()

    def open(self):
        """Start every service anew from what it saved."""
        board = Board(NAMES, simulated=False)
        self.featurizer, self.trainer = Featurizer(self.context, self.source), Trainer(self.context)
        self.predictor, self.lander = Predictor(self.context, board), Lander(self.context)
        self.services = [self.featurizer, self.trainer, self.predictor, self.lander]
        for service in self.services:
            service.open()

    def turn(self):
        """Let every service handle all that has arrived, and save."""
        for service in self.services:
            while service.work(0.0):
                pass
            service.save()

    def close(self, *, clean=True):
        for service in self.services:
            service.close(clean=clean)

    def letters(self) -> list[Filed]:
        return read_letters(self.memory, self.clock, lambda _: True)

    def digests(self):
        """Return everything that was learned, predicted and landed, by line."""
        with Lake.open(self.places, read_only=True) as lake:
            rows = {
                (table, name): [
                    column.tobytes() for column in vars(read_table(lake, table, name, 0, 2**62)).values()
                ]
                for table in ("bars", "features", "examples") for name in NAMES
            }  # fmt: skip
            said = lake.query("SELECT * EXCLUDE (predicted_at) FROM predictions ORDER BY prediction_id").to_pylist()
        lines = [station.line.digest() for station in self.trainer._stations.values()]
        return lines, rows, said
