"""Health: what a service says of itself, and whether it is alive and ready, judged by progress, not by presence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["starting", "running", "draining", "done", "failed"]

BEAT_TTL = 10.0
"""Seconds without a beat after which a service is missing: it beats every second, and may drop some."""

STALL = 25.0
"""Seconds without progress, with work waiting, after which it is stuck: more than any pause of a healthy one."""

START_GRACE = 180.0
"""Seconds a service may take to its first progress: imports, compilation, loading a model, catching up a topic."""

VERSION_GRACE = 30.0
"""Seconds that a version may come later than its clock says: a checkpoint, a slow disk, a database that is locked."""

READY_LAG = 10_000
"""Records behind, beyond which it serves answers too old to be called fresh."""


@dataclass(frozen=True)
class Beat:
    """One heartbeat.

    Attributes
    ----------
    service, instance : which service, and which of its processes
    pid : process id on its machine
    phase : ``draining`` finishes what it holds and takes nothing new; ``done`` has come to the end of its input
    generation : grows by one with each deployment
    position : topic/partition -> next offset
    progress : records handled since the start
    progressed_at : when its offset or its progress last moved *or nothing was waiting*, unix seconds. An idle service
        sets it too: otherwise the first record after a quiet hour would look like an hour's stall.
    lag : records waiting; None when unknown (the broker is out of reach)
    ready : its own word that it can serve
    beat_at, started_at : unix seconds, its wall clock
    detail : version, n_learned, skill, watermark, message ... for people and checks
    """

    service: str
    instance: str
    pid: int
    phase: Phase
    generation: int
    position: Mapping[str, int]
    progress: int
    progressed_at: float
    lag: int | None
    ready: bool
    beat_at: float
    started_at: float
    detail: Mapping[str, Any] = field(default_factory=dict)


def live(beat: Beat | None, now: float) -> bool:
    """Return whether the service should be left alone; False means kill and restart it.

    Parameters
    ----------
    beat : its newest, None when it never beat
    now : unix seconds, by the same clock as the beat's

    Notes
    -----
    Unknown lag never kills: a broker or database that is down must not take every service with it. Nor does an idle
    topic, a draining or finished service, or a slow start. Ask twice before acting: when the clock
    is set, a beat is of another time until the next one. A beat ahead of the clock is as old as one behind it.
    """
    if beat is None:
        return False
    if beat.phase in {"draining", "done"}:
        return True
    starting = beat.progress == 0
    if abs(now - beat.beat_at) > BEAT_TTL:
        return starting and now - beat.started_at < START_GRACE
    moved = max(beat.progressed_at, beat.started_at + (START_GRACE if starting else 0.0))
    return not ((beat.lag or 0) > 0 and now - moved > STALL)


def overdue(beat: Beat, now: float) -> float:
    """Return for how many seconds a version has been due though examples are learned; 0 within the grace.

    Notes
    -----
    ``due_at`` in the detail is the moment by which the oldest example that is in no version yet should be in one, unix
    seconds. It is None while all are, so that the first example after a quiet hour is not an hour late, and where
    versions go by count alone.
    """
    due = beat.detail.get("due_at")
    late = now - due if due is not None and beat.phase == "running" else 0.0
    return late if late > VERSION_GRACE else 0.0


def ready(beat: Beat | None, now: float) -> bool:
    """Return whether the service can be relied on now: alive, running, ready by its own word, and not far behind.

    Unknown lag counts as not far behind: what was loaded still serves.
    """
    if beat is None or not live(beat, now) or abs(now - beat.beat_at) > BEAT_TTL:
        return False
    return beat.phase == "running" and beat.ready and (beat.lag is None or beat.lag <= READY_LAG)


def market_clock(beats: Iterable[Beat]) -> int:
    """Return how far the market has become bars, ns of event time; 0 before the first."""
    marks = (beat.detail.get("watermark") for beat in beats if beat.service == "featurizer")
    return max((mark for mark in marks if isinstance(mark, int)), default=0)
