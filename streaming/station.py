"""A line in a trainer's hands: its models, its lease, and the records that wait until their turn has come."""

from __future__ import annotations

from dataclasses import dataclass

from domain.checkpoint import Checkpoint
from domain.fleet import Line
from domain.tables import ExampleTable, Floats, VectorTable
from domain.tape import ready_until
from streaming.gate import Gate
from streaming.inbox import Inbox
from warehouse.leases import Lease


@dataclass
class Station:
    """One line on its way: its models, what waits for its turn, and what was published last.

    Attributes
    ----------
    version : number of the newest one that was loaded or published
    asks, answers : let the records of its two topics through in order
    vectors, examples : wait until the tape is complete
    base : the checkpoint that it was loaded from
    probes : its newest questions, float64[p, 16]
    published_n : examples that the newest version has learned
    published_at : when that was published, by the clock that never steps back, seconds
    published_utc : the same, unix seconds
    waits_since : when the oldest example was learned that is in no version yet, monotonic seconds; None when all are
    """

    line: Line
    lease: Lease
    version: int
    vectors: Inbox[VectorTable]
    examples: Inbox[ExampleTable]
    asks: Gate[VectorTable]
    answers: Gate[ExampleTable]
    base: Checkpoint
    probes: Floats
    published_n: int
    published_at: float
    published_utc: float
    waits_since: float | None = None

    @property
    def ready_until(self) -> int | None:
        """How far the line can be followed, ns; None when no further than it was."""
        until = ready_until(self.vectors.table, self.examples.table)
        return None if until is None or until <= self.line.watermark else until

    @property
    def behind(self) -> bool:
        """Whether something waits that can be learned now."""
        return self.ready_until is not None

    @property
    def skill(self) -> float | None:
        """Recent skill of the volatility champion over the calibrated average, for people to look at."""
        scores = self.line.scores()["volatility"]
        champion, baseline = scores.get(self.line.champions["volatility"]), scores.get("ewma")
        if not champion or not baseline or not baseline["recent_loss"]:
            return None
        return round(1.0 - champion["recent_loss"] / baseline["recent_loss"], 4)
