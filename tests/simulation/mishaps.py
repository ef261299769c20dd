"""What goes wrong between steps: by seed, at random moments, as often as the setting says."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

from domain.errors import TidemillError
from domain.events import NANOS_PER_DAY, NANOS_PER_MINUTE
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET, MODEL_VERSIONS, PREDICTIONS, TRADES
from streaming import codec
from streaming.seam import newest_good
from tests.simulation.faults import Crash
from tests.simulation.process import Process
from tests.simulation.world import World
from warehouse.landing import all_landed

MARGIN = 90 * NANOS_PER_MINUTE
"""Retention keeps this much more than what everybody has done with, ns."""

GARBAGE = (b"", b"{", b"\xff\xfe", b'{"instrument": 1}', b'{"ts_event": 1e999}')
LOSABLE = (BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS, MODEL_VERSIONS)


class Mishaps:
    """Does harm to a world, by its own seeded choice."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.done: dict[str, int] = {}
        self._copies = 0
        self._lost_at = -60.0
        self._later: list[tuple[float, int, object]] = []
        self._kinds = {
            "crash": (self.crash, 10),
            "stop": (self.stop, 2),
            "zombie": (self.zombie, 2),
            "twin": (self.twin, 2),
            "step": (self.step_clock, 1),
            "flip": (self.flip, 1),
            "scratch": (self.scratch, 1),
            "hang": (self.hang, 2),
            "lost ack": (self.lose_ack, 2),
            "power": (self.lose_power, 1),
            "anew": (self.make_anew, 2),
            "expire": (self.expire, 1),
            "backfill": (self.backfill, 1),
            "poison": (self.poison, 1),
        }

    def rage(self) -> None:
        """Let the day pass, with faults."""
        world = self.world
        world.broker.sync()
        when = 0.0
        while when < world.length_s:
            when += self.rng.expovariate(1.0 / world.setting.fault_s)
            for due in sorted(entry for entry in self._later if entry[0] <= when):
                world.until(due[0])
                self._later.remove(due)
                due[2]()
            world.until(min(when, world.length_s))
            names = list(self._kinds)
            name = self.rng.choices(names, [self._kinds[n][1] for n in names])[0]
            self.do(name)
        for _, _, action in sorted(self._later):
            action()

    def do(self, name: str) -> None:
        """Let one kind of mishap happen now."""
        self.world.trace.note("mishap", name)
        self.done[name] = self.done.get(name, 0) + 1
        self._kinds[name][0]()
        self.world.judge.step(None)

    def _after(self, seconds: float, action: object) -> None:
        self._later.append((self.world.clock.now + seconds, len(self.done) + self._copies * 1_000, action))

    def _some(self, *kinds: str) -> Process:
        return self.rng.choice([p for p in self.world.processes if not kinds or p.kind in kinds])

    def crash(self) -> None:
        """Let a process die at one of its next calls to the outside."""
        self.world.fuses.burning[self._some().name] = int(self.rng.expovariate(1 / 12))

    def stop(self) -> None:
        """Redeploy a service."""
        self._some().stop()

    def zombie(self) -> None:
        """Pause a trainer for longer than its lease, and let another take the line meanwhile."""
        sleeper = self.world.process("trainer")
        sleeper.due = self.world.clock.now + self.rng.uniform(16.0, 60.0)
        self._copy("trainer", "spare", sleeper.due + self.rng.uniform(0.0, 30.0))

    def twin(self) -> None:
        """Start a service a second time."""
        self._copy(self.rng.choice(("trainer", "lander", "featurizer")), "mill", None)

    def _copy(self, kind: str, owner: str, until: float | None) -> None:
        if any(p.kind == kind and "+" in p.name for p in self.world.processes):
            return
        self._copies += 1
        copy = self.world.add(kind, f"{kind}+{self._copies}", owner)
        copy.due += self.rng.uniform(0.0, 20.0)
        lasts = self.rng.uniform(20.0, 60.0) if until is None else until - self.world.clock.now
        self._after(lasts, lambda: copy in self.world.processes and self.world.remove(copy))

    def step_clock(self) -> None:
        """Let the wall clock, the database's too, jump by up to an hour."""
        self.world.clock.step_s += self.rng.uniform(-3_600.0, 3_600.0)

    def flip(self) -> None:
        """Damage the newest version on disk, where those before it are whole."""
        world = self.world
        name = self.rng.choice(world.project.instruments)
        version = world.registry.newest(name)
        if any((name, n) in world.judge.damaged for n in range(version.number - 3, version.number + 1)):
            return
        if world.registry.get(name, version.number - 1) is None:
            return
        # Known limit: what a lost log took along is made again from the newest version's watermark. When that version
        # is damaged later, the one before it lacks what lies between.
        if world.judge.seen_at[name, version.number - 1] < self._lost_at + 60.0:
            return
        self._damage(version.path)
        world.judge.spoiled(name, version.number)

    def scratch(self) -> None:
        """Damage the featurizer's state on disk."""
        files = sorted((self.world.places.state / "featurizer").glob("*.safetensors"))
        if files:
            self._damage(self.rng.choice(files))

    def _damage(self, path) -> None:
        data = bytearray(path.read_bytes())
        if self.rng.random() < 0.3:
            data = data[: self.rng.randrange(len(data))]
        else:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(data)

    def hang(self) -> None:
        """Let the broker be silent for a while."""
        self.world.broker.hung_until = self.world.clock.now + self.rng.uniform(3.0, 40.0)

    def lose_ack(self) -> None:
        """Let the next flush not hear of its success."""
        self.world.broker.losing_acks += 1

    def lose_power(self) -> None:
        """Kill everything at once, and with it the ends of the logs that were not yet on disk."""
        world = self.world
        emitted = self._emitted()
        for process in world.processes:
            process.vanish("power")
        for key in world.broker.lose_unsynced():
            world.trace.note("cut", *key, world.broker.end(key))
            world.judge.lost(key, whole=False)
        self._excuse(emitted)
        self._lost_at = world.clock.now
        world.broker.sync()

    def make_anew(self, topic: str = "") -> None:
        """Delete a topic and make it again, empty; that of a source while nobody feeds or follows it."""
        world = self.world
        source = BARS if world.setting.candles else TRADES
        topic = topic or self.rng.choice((*LOSABLE, source))
        emitted = self._emitted()
        if topic == source:
            ingest = world.process("ingest")
            world.broker.writers.pop("ingest", None)
            ingest.vanish("stopped to delete its topic")
            for process in world.processes:
                if process.kind == "featurizer":
                    process.vanish("stopped to delete its topic")
        world.broker.make_anew(topic)
        world.trace.note("anew", topic)
        for partition in range(len(world.project.instruments)):
            world.judge.lost((topic, partition), whole=True)
        self._excuse(emitted, also_answered=topic == PREDICTIONS)
        self._lost_at = world.clock.now
        world.broker.sync()

    def _emitted(self) -> dict[str, set[int]]:
        judge = self.world.judge
        return {
            name: set(judge.oracles[name].times[FEATURES][: judge.at((FEATURES, p)) + 1].tolist())
            for p, name in enumerate(self.world.project.instruments)
        }

    def _excuse(self, emitted: dict[str, set[int]], *, also_answered: bool = False) -> None:
        """Ask no answer to vectors that nobody can read any more, or that was deleted before it landed."""
        for partition, name in enumerate(self.world.project.instruments):
            there = {codec.event_time(v) for v in self.world.broker.logs.get((FEATURES, partition), ())}
            self.world.excused[name] |= emitted[name] - (set() if also_answered else there)

    def expire(self) -> None:
        """Let the broker drop what everybody has long done with."""
        world = self.world
        with world.pool.open() as lake:
            landed = all_landed(lake)
        for partition, name in enumerate(world.project.instruments):
            marks = [landed.get((topic, partition)) for topic in (BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS)]
            versions = sorted(n for line, n in world.judge.versions if line == name)[-6:]
            done = min(world.judge.versions[name, n].watermark for n in versions)
            if None in marks:
                continue
            done = min(done, *(mark.last_ts for mark in marks)) - MARGIN
            for topic in (TRADES, BARS, FEATURES, FEATURES_WITH_TARGET, PREDICTIONS):
                key = topic, partition
                log = world.broker.logs.get(key, [])
                old = next((i for i, value in enumerate(log) if codec.event_time(value) > done), 0)
                world.broker.expire(key, world.broker.starts.get(key, 0) + old)

    def poison(self) -> None:
        """Let a stranger write rubbish to a topic; not while the featurizer counts what a power loss has left."""
        world = self.world
        if world.process("featurizer").stage is None:
            return
        source = BARS if world.setting.candles else TRADES
        world.poisoning = True
        key = self.rng.choice((FEATURES, FEATURES_WITH_TARGET, source, PREDICTIONS)), 0
        world.broker.append(key, [self.rng.choice(GARBAGE)])
        world.poisoning = False

    def backfill(self) -> None:
        """Make closed rows of a day again from history, beside everything else."""
        from assets import backfill, history

        world, project = self.world, self.world.project
        first = self.rng.choice((world.market.start, world.market.opens)) // NANOS_PER_DAY * NANOS_PER_DAY
        first += self.rng.choice((0, NANOS_PER_DAY))
        makers = (
            ("bars", lambda lake, *a: backfill.write_bars(lake, world.market, *a)),
            ("features", backfill.write_features),
            ("examples", backfill.write_examples),
        )
        with self._as_backfill():
            for table, write in makers:
                with world.pool.open() as lake:
                    ends = history.ends_of(_mill(world), lake, table)
                    for name in project.instruments:
                        start, end = max(first, world.market.start), min(first + NANOS_PER_DAY, ends[name])
                        if start < end:
                            write(lake, project, name, start, end, "backfill")
                            world.trace.note("backfilled", table, start, end)

    @contextmanager
    def _as_backfill(self):
        """Run as a process that may die, and lets the lander come first before each of its transactions."""
        world = self.world
        if self.rng.random() < 0.3:
            world.fuses.burning["backfill"] = int(self.rng.expovariate(1 / 12))
        world.fuses.running = "backfill"
        world.pool.before_write = self._interleave
        try:
            yield
        except (Crash, TidemillError) as error:
            world.trace.note("backfill ended", type(error).__name__)
        finally:
            world.fuses.running = ""
            world.fuses.burning.pop("backfill", None)
            world.pool.before_write = lambda: None

    def _interleave(self) -> None:
        world = self.world
        world.pool.before_write = lambda: None
        for kind in ("featurizer", "lander"):
            world.process(kind).turn()
            world.judge.step(world.process(kind))
        world.fuses.running = "backfill"
        world.pool.before_write = self._interleave


def _mill(world: World) -> SimpleNamespace:
    @contextmanager
    def control():
        yield world.ledger

    market = world.project.market.model_copy(update={"opens": datetime.fromtimestamp(world.market.opens / 1e9, UTC)})
    return SimpleNamespace(
        control=control, places=world.places, project=world.project.model_copy(update={"market": market})
    )


def good_line(world: World, name: str):
    """Return the line of the newest version that loads."""
    return newest_good(world.registry, name, "judge")[1].line
