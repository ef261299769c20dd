"""A day of a seed from its opening to its end, and what it was like."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.invariants import Violation
from tests.simulation.mishaps import Mishaps
from tests.simulation.world import Setting, opened


@dataclass
class Day:
    """What a seed's day came to.

    Attributes
    ----------
    trace : sha256 of everything that happened: two runs of one seed share it
    violation : what did not hold, with the last lines before it
    """

    seed: int
    hours: float
    steps: int = 0
    trace: str = ""
    versions: int = 0
    predictions: int = 0
    mishaps: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    invariant: str = ""
    violation: str = ""
    tail: list[str] = field(default_factory=list)

    @property
    def replay(self) -> str:
        """The command that gives this very day again."""
        return f"python -m tests.simulation --seed {self.seed} --days 1 --hours {self.hours:g} --trace"


def live(seed: int, hours: float = 24.0) -> Day:
    """Let one seed's day happen."""
    day = Day(seed, hours)
    with opened(Setting.of(seed, hours)) as world:
        mishaps = Mishaps(world)
        try:
            mishaps.rage()
            world.drain()
        except Violation as violation:
            day.invariant, day.violation = violation.invariant, str(violation)
        day.steps, day.trace = world.trace.steps, world.trace.hexdigest()
        day.versions, day.predictions = len(world.judge.versions), world.judge.proven
        day.mishaps, day.stops, day.tail = mishaps.done, len(world.stops), list(world.trace.lines)
    return day
