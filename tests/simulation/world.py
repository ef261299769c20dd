"""One day of the whole system: its parts put together, its processes turned one after another, its end checked."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
import structlog

from assets.backfill import write_bars, write_examples, write_features
from assets.training import train_initial
from domain.config import Model, Places, Project, Publish
from domain.events import NANOS_PER_MINUTE
from domain.market import Market as MarketSetting
from domain.topics import BARS, TRADES
from streaming import featurizer, ingest, lander, predictor, trainer
from streaming.serving import Board
from streaming.transport import Key
from tests.domain.samples import LINEAR
from tests.simulation.broker import Broker
from tests.simulation.faults import Fuses, Hands, Ledger, fragile_files
from tests.simulation.invariants import DIGEST, DRAINED, Violation
from tests.simulation.judge import Judge
from tests.simulation.lake import Pool
from tests.simulation.market import Market
from tests.simulation.process import PACE_S, Process, Seat
from tests.simulation.trace import Trace
from warehouse.control_tables import leases
from warehouse.keys import model_key
from warehouse.registry import Registry
from warehouse.versions import Version, VersionInfo

RAM = Path("/dev/shm")  # noqa: S108 - a disk that is memory, where there is one
PATIENCE_S = 900.0
"""Virtual seconds in which everything must drain once the faults are over."""


@dataclass(frozen=True)
class Setting:
    """What a seed decides before a day begins."""

    seed: int
    hours: float = 24.0
    candles: bool = False
    instruments: tuple[str, ...] = ("simulated:AAA",)
    horizon_m: int = 5
    river: bool = False
    speed: float = 240.0
    examples: int = 100
    every_s: float = 0.0
    checkpoint_s: float = 1.0
    fault_s: float = 12.0

    @classmethod
    def of(cls, seed: int, hours: float = 24.0) -> Setting:
        """Return the setting of a seed."""
        rng = random.Random(seed)
        return cls(
            seed=seed,
            hours=hours,
            candles=rng.random() < 0.5,
            instruments=("simulated:AAA", "simulated:BBB")[: 1 + (rng.random() < 0.15)],
            horizon_m=rng.choice((1, 5, 30)),
            river=rng.random() < 0.04,
            speed=rng.choice((180.0, 240.0, 480.0)),
            examples=rng.choice((60, 100, 400)),
            every_s=rng.choice((0.0, 20.0, 60.0)),
            checkpoint_s=rng.choice((0.0, 1.0, 10.0)),
            fault_s=rng.choice((5.0, 12.0, 30.0)),
        )

    def project(self) -> Project:
        """Return the project."""
        targets = ("price_change", "direction", "volatility")
        fleet = (Model(name="rls", kind="rls", targets=targets), *((LINEAR,) if self.river else ()))
        return Project(
            instruments=self.instruments,
            horizon=self.horizon_m * NANOS_PER_MINUTE,
            market=MarketSetting(speed=self.speed),
            publish=Publish(examples=self.examples, every_s=self.every_s),
            fleet=fleet,
        )


@dataclass
class World:
    """Everything there is; see ``Setting``. Use it inside ``opened``."""

    setting: Setting
    home: Path
    clock: Hands = field(init=False)
    stops: list[tuple[str, str, str]] = field(default_factory=list)
    poisoning: bool = False
    draining: bool = False

    def __post_init__(self) -> None:
        setting = self.setting
        self.rng = random.Random(f"world {setting.seed}")
        self.project = setting.project()
        self.market = Market(
            setting.seed, setting.instruments, candles=setting.candles, hours=setting.hours, speed=setting.speed
        )
        self.clock = self.market.clock = Hands(self.market.opens)
        self.trace = Trace(self.clock, str(self.home))
        self.fuses = Fuses()
        self.ledger = Ledger(self.clock, self.fuses)
        self.pool = Pool(self.home / "lake", self.fuses)
        self.broker = Broker(self.clock, self.fuses, self.rng, self._arrived)
        self.places = Places(home=self.home, model_key="the same key in every simulation")
        self.key = model_key(self.places)
        self.registry = Registry(self.ledger, self.places.models, self.key)
        self.watched_registry = _Watched(self)
        self.pace_s = dict(PACE_S)
        self.excused: dict[str, set[int]] = {name: set() for name in self.project.instruments}
        self.judge = Judge(self)
        self.processes: list[Process] = []

    def _arrived(self, key: Key, values: list[bytes]) -> None:
        self.judge.appended(key, values)

    def begin(self) -> None:
        """Fill the lake with history, train the first models and start the five services."""
        market, project = self.market, self.project
        with self.pool.open() as lake:
            for name in project.instruments:
                write_bars(lake, market, project, name, market.start, market.opens, "history")
                write_features(lake, project, name, market.start, market.opens, "history")
                write_examples(lake, project, name, market.start, market.opens, "history")
                trained = train_initial(lake, self.ledger, self.registry, project, name, market.start, market.opens)
                if trained.version.digest != self.judge.oracles[name].digest(market.opens):
                    raise Violation(DIGEST, f"the first version of {name}")
        self.judge.step(None)
        for kind in PACE_S:
            self.add(kind)

    def add(self, kind: str, name: str = "", owner: str = "mill") -> Process:
        """Add a process; it starts at its first turn."""
        name = name or kind
        seat = Seat(
            self.project, self.places, self.ledger, self.broker, self.clock, name,
            checkpoint_s=self.setting.checkpoint_s, world=self, owned_by=owner,
        )  # fmt: skip
        makers: dict[str, Callable] = {
            "ingest": lambda: ingest.Ingest(seat, self.market),
            "featurizer": lambda: featurizer.Featurizer(seat, BARS if self.setting.candles else TRADES),
            "trainer": lambda: trainer.Trainer(seat),
            "predictor": lambda: predictor.Predictor(seat, Board(self.project.instruments, simulated=True)),
            "lander": lambda: lander.Lander(seat),
        }
        process = Process(self, kind, name, makers[kind], seat)
        self.processes.append(process)
        return process

    def restart_after(self) -> float:
        """Return how long whoever watches the services takes to start one again."""
        return 0.5 if self.draining else self.rng.choice((0.2, 1.0, 3.0, 8.0, 25.0))

    def newest_epoch(self, line: str) -> int:
        """Return the newest epoch of a line's lease."""
        query = sa.select(leases.c.epoch).where(leases.c.line == line)
        return self.ledger.read(lambda c: c.execute(query).scalar_one())

    @property
    def length_s(self) -> float:
        """Virtual seconds that the market takes."""
        return self.market.minutes * 60.0 / self.market.speed

    def turn_next(self) -> None:
        """Let time come to the process that is due next, turn it, and check."""
        process = min(self.processes, key=lambda p: (p.due, p.name))
        self.clock.now = max(self.clock.now, process.due)
        process.turn()
        self.trace.steps += 1
        self.judge.step(process)

    def until(self, when: float) -> None:
        """Go on until some virtual second."""
        while min(p.due for p in self.processes) <= when:
            self.turn_next()
        self.clock.now = max(self.clock.now, when)

    def process(self, name: str) -> Process:
        """Return a process by name."""
        return next(p for p in self.processes if p.name == name)

    def remove(self, process: Process) -> None:
        """End a copy for good."""
        process.stop()
        self.judge.step(process)
        self.processes.remove(process)

    def drain(self) -> None:
        """End the faults; let everything arrive, land and be learned, then stop all and check the end."""
        self.draining = self.broker.calm = True
        self.fuses.burning.clear()
        for copy in [p for p in self.processes if "+" in p.name]:
            self.remove(copy)
        for process in self.processes:
            process.due = min(process.due, self.clock.now + 2.0)
        self.pace_s = {kind: 0.3 * pace for kind, pace in PACE_S.items()}
        deadline = self.clock.now + PATIENCE_S
        while not self._drained():
            if self.clock.now > deadline:
                raise Violation(DRAINED, f"missing {self.judge.undrained()}; last stops {self.stops[-3:]}")
            for _ in range(10):
                self.turn_next()
        lines = self._lines()
        for process in sorted(self.processes, key=lambda p: list(PACE_S).index(p.kind)):
            process.stop()
            self.judge.step(process)
        self.judge.finish(lines)

    def _lines(self) -> dict[str, object]:
        stage = self.process("trainer").stage
        return {self.project.instruments[p]: station.line for p, station in stage._stations.items()}

    def _drained(self) -> bool:
        if self.clock.now < self.length_s or self.judge.undrained():
            return False
        stages = {p.kind: p.stage for p in self.processes}
        if None in stages.values():
            return False
        learned = all(line.watermark == self.judge.oracles[n].last for n, line in self._lines().items())
        landing = stages["lander"]
        landed = landing._reader.lag() == 0 and not landing._rows
        return learned and landed and self.judge.answered_all() and stages["ingest"].finished


class _Watched(Registry):
    """Tells the judge who is about to publish, and with which epoch."""

    def __init__(self, world: World) -> None:
        super().__init__(world.ledger, world.places.models, world.key)
        self._world = world

    def publish(self, line: str, payload: bytes, info: VersionInfo, lease: object) -> Version:
        """See ``Registry``."""
        running = next(p for p in self._world.processes if p.name == self._world.fuses.running)
        self._world.judge.intent[line] = (running.incarnation, lease.epoch)
        return super().publish(line, payload, info, lease)


@contextlib.contextmanager
def opened(setting: Setting) -> Iterator[World]:
    """Yield a world at the opening of its market, and clean up after it."""
    home = Path(tempfile.mkdtemp(prefix="tidemill-sim-", dir=RAM if RAM.is_dir() else None))
    configured = structlog.get_config()
    try:
        world = World(setting, home)
        structlog.configure(processors=[world.trace.log], cache_logger_on_first_use=False)
        with fragile_files(world.fuses):
            world.begin()
            yield world
        world.ledger.close()
        world.pool.connection.close()
    finally:
        structlog.configure(**configured)
        shutil.rmtree(home, ignore_errors=True)
