"""Lives: what a service's processes add up to between two observations, remembered in a cursor, told once an hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestration.processes import resident_bytes
from orchestration.tending import Look

EVERY_S = 3600.0
"""Between two observations of a service: Dagster keeps them for good, and a day of them draws a curve."""

FIRST_S = 60.0
"""Of a life before it is told for the first time: a rate over less is noise."""


@dataclass
class Life:
    """What is remembered of a service's processes between two looks.

    Attributes
    ----------
    generation, restarts : of the deployment seen last, and how often its process was restarted within it
    before : restarts within all earlier deployments
    pid, progress, marked_at : the process, how far it was, and when, at the beginning of the stretch to be told next
    told_at : of the last observation, unix seconds
    """

    generation: int = 0
    restarts: int = 0
    before: int = 0
    pid: int = 0
    progress: int = 0
    marked_at: float = 0.0
    told_at: float = 0.0

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Life:
        """Return what ``plain`` made plain."""
        return cls(**value)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    def look(self, look: Look, now: float) -> dict[str, float] | None:
        """Note a look; return the figures of an observation when one is due, None otherwise.

        Returns
        -------
        uptime_s, restarts (of all deployments), redeployments, progress_per_s, and, where they are known, lag and
        memory_mb (resident).
        """
        status, beat = look.status, look.own_beat
        if status.generation != self.generation:
            self.before, self.restarts = self.before + self.restarts, 0
            self.generation = status.generation
        self.restarts = max(self.restarts, status.restarts)
        if status.phase != "running" or status.pid is None or beat is None:
            return None
        if status.pid != self.pid:
            self._mark(status.pid, beat.progress, now)
        if now - self.marked_at < FIRST_S or now - self.told_at < EVERY_S:
            return None
        figures: dict[str, float] = {
            "uptime_s": round(now - (status.started_at or 0) / 1e9, 1),
            "restarts": self.before + self.restarts,
            "redeployments": max(0, status.generation - 1),
            "progress_per_s": round((beat.progress - self.progress) / (now - self.marked_at), 3),
        }
        if beat.lag is not None:
            figures["lag"] = beat.lag
        if memory := resident_bytes(status.pid):
            figures["memory_mb"] = round(memory / 1e6, 1)
        self._mark(status.pid, beat.progress, now)
        self.told_at = now
        return figures

    def _mark(self, pid: int, progress: int, now: float) -> None:
        self.pid, self.progress, self.marked_at = pid, progress, now
