"""A process of the simulation: one incarnation after another of a real service, started, turned, paused and killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from domain.errors import TidemillError
from streaming.app import Context, Stage, Turning
from tests.simulation.faults import Crash
from tests.simulation.lake import Twin

PACE_S = {"ingest": 4.0, "featurizer": 5.0, "trainer": 5.0, "predictor": 5.0, "lander": 18.0}
"""Mean virtual seconds between two turns: slow processes, so that a day takes few of them."""


@dataclass
class Seat(Context):
    """A context whose lake is the twin, and whose owner is named."""

    world: object = None
    owned_by: str = "mill"

    @property
    def owner(self) -> str:
        """Who takes leases."""
        return self.owned_by

    @property
    def registry(self) -> object:
        """The registry that tells the judge who publishes."""
        return self.world.watched_registry

    def open_lake(self, *, read_only: bool = False) -> Twin:
        """Open the twin."""
        self.world.fuses.point()
        return self.world.pool.open()


class Process:
    """One place where a service runs.

    Attributes
    ----------
    name, kind : ``trainer+1`` and ``trainer``: copies have a name of their own
    stage : None while it is down
    due : when it turns or starts next, virtual seconds
    """

    def __init__(self, world, kind: str, name: str, make: Callable[[], Stage], seat: Seat) -> None:
        self._world, self.kind, self.name, self._make, self._seat = world, kind, name, make, seat
        self.stage: Stage | None = None
        self._turning: Turning | None = None
        self.due, self._starts = world.clock.now, 0
        self.dead = False

    @property
    def incarnation(self) -> str:
        """Name of what runs now."""
        return f"{self.name}#{self._starts}"

    def turn(self) -> None:
        """Start, or go once round the loop."""
        world = self._world
        world.fuses.running = self.name
        try:
            if self.stage is None:
                self._start()
            else:
                for writer in world.broker.writers.get(self.name, []):
                    writer.drip()
                self._turning.once(0.0)
                world.trace.note("turn", self.name)
            self.due = world.clock.now + world.rng.expovariate(1.0 / world.pace_s[self.kind])
        except Crash:
            self.vanish("crash")
        except TidemillError as error:
            world.trace.note("stopped", self.name, type(error).__name__, error)
            world.stops.append((self.kind, type(error).__name__, str(error)))
            self._give_up()
        finally:
            world.fuses.running = ""

    def stop(self) -> None:
        """Ask it to end: the last save, and a clean close."""
        world = self._world
        world.fuses.running = self.name
        try:
            if self.stage is not None:
                self.stage.save()
                self.stage.close(clean=True)
            self.vanish("stop")
        except Crash:
            self.vanish("crash")
        except TidemillError as error:
            world.trace.note("stopped", self.name, type(error).__name__, error)
            self._give_up()
        finally:
            world.fuses.running = ""
        world.judge.step(self)

    def vanish(self, why: str) -> None:
        """Be gone at once, and start again after a while."""
        world = self._world
        world.trace.note(why, self.name)
        world.fuses.burning.pop(self.name, None)
        world.broker.bury(self.name)
        self.stage = self._turning = None
        self.due = world.clock.now + world.restart_after()

    def _start(self) -> None:
        world = self._world
        self._starts += 1
        world.trace.note("start", self.incarnation)
        stage = self._make()
        self.stage = stage
        stage.open()
        self._turning = Turning(stage, self._seat)

    def _give_up(self) -> None:
        """Close what failed midway, as the loop does."""
        try:
            if self.stage is not None:
                self.stage.close(clean=False)
        except (Crash, TidemillError) as error:
            self._world.trace.note("close failed", self.name, type(error).__name__)
        self.vanish("gave up")
