"""The one loop that every service runs: poll, step, produce, checkpoint, heartbeat, signals.

A service is a ``Stage``: it opens, works, saves and closes. The loop owns time and signals; a thread of its own writes
the heartbeat, so that a slow database never delays the stream, and the beat tells when the loop last turned, so that a
hung loop cannot look alive.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import structlog

from domain.config import Places, Project
from domain.errors import TidemillError
from domain.health import Beat, Phase
from streaming.clock import Clock, SystemClock
from streaming.transport import Transport
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.keys import model_key
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.roles import Roles

if TYPE_CHECKING:
    from warehouse.lake import Lake

BEAT_S = 1.0
IDLE_S = 0.2

CLOCK_SET_S = 1.0
"""Wall time that passes more, or less, than monotonic time between two beats: the clock was set, not steered."""


@dataclass
class Context:
    """What every service is given by the composition root.

    Attributes
    ----------
    project, places : what to predict, and where things are
    control : the control database
    transport : the broker
    clock : the machine's, or a simulation's
    instance : who we are among the copies of a service
    generation : of the supervisor, for the heartbeat
    checkpoint_s : wall seconds between saves
    """

    project: Project
    places: Places
    control: Control
    transport: Transport
    clock: Clock = field(default_factory=SystemClock)
    instance: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    generation: int = 0
    checkpoint_s: float = 1.0

    @property
    def owner(self) -> str:
        """Who takes leases: this home on this machine, where the supervisor allows one process a service.

        A restarted trainer takes its own lease again at once, with a newer epoch that fences its former self.
        """
        return f"{socket.gethostname()}:{self.places.home.absolute()}"

    @cached_property
    def registry(self) -> Registry:
        """The model registry, with the key that signs and verifies."""
        return Registry(self.control, self.places.models, model_key(self.places))

    @property
    def leases(self) -> Leases:
        """The leases of the lines."""
        return Leases(self.control)

    @property
    def roles(self) -> Roles:
        """Which line serves an instrument, and which one challenges it."""
        return Roles(self.control)

    def open_lake(self, *, read_only: bool = False) -> Lake:
        """Open the lake; see ``Lake.open``."""
        from warehouse.lake import Lake  # DuckDB and Arrow cost half a second, and the trainer has no need of them

        return Lake.open(self.places, read_only=read_only)


@dataclass
class Pulse:
    """What a stage last said of itself; the heartbeat thread reads it, the loop's thread writes it."""

    position: dict[str, int] = field(default_factory=dict)
    progress: int = 0
    lag: int | None = None
    ready: bool = False
    detail: dict[str, object] = field(default_factory=dict)


class Stage(Protocol):
    """One service's life in five verbs.

    ``work`` is called in a loop and must return within about a second; ``save`` makes everything done so far survive a
    ``kill -9``, in this order: outputs flushed, then state, then offsets. Between two saves a crash may repeat outputs,
    never lose them.
    """

    name: str

    def open(self) -> None:
        """Load state and seek the inputs."""
        ...

    def work(self, wait_s: float) -> int:
        """Handle what has arrived, waiting at most ``wait_s`` for it; return the number of records handled."""
        ...

    def save(self) -> None:
        """Make everything done so far survive a crash."""
        ...

    def pulse(self) -> Pulse:
        """Say where the stage stands; cheap, called about once a second."""
        ...

    def close(self, *, clean: bool) -> None:
        """Release what was opened.

        ``clean`` after a last ``save``; otherwise something failed midway, the state may be torn, and nothing of it
        may leave: what was saved before is what counts.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do, ever (a recorded source that has ended)."""
        ...


class _Heart(threading.Thread):
    """Writes the heartbeat once a second from what the loop last said."""

    def __init__(self, stage: Stage, context: Context) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._stage, self._context, self._beats = stage.name, context, Heartbeats(context.control)
        self.started = self.progressed = self.turned = time.time()
        self._ahead, self._setting = time.time() - time.monotonic(), threading.Lock()
        self.pulse = Pulse()
        self.phase: Phase = "starting"
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self.beat()

    def beat(self) -> None:
        self._follow_clock()
        p, c = self.pulse, self._context
        self._beats.beat(
            Beat(
                service=self._stage,
                instance=c.instance,
                pid=os.getpid(),
                phase=self.phase,
                generation=c.generation,
                position=p.position,
                progress=p.progress,
                progressed_at=self.progressed,
                lag=p.lag,
                ready=p.ready,
                beat_at=self.turned,
                started_at=self.started,
                detail=p.detail,
            )
        )

    def turn(self, pulse: Pulse) -> None:
        """Note that the loop has turned."""
        self._follow_clock()
        self.turned = time.time()
        # Idle is progress too: the first record after a quiet hour must not look like an hour's stall.
        moved = (pulse.position, pulse.progress) != (self.pulse.position, self.pulse.progress)
        if moved or pulse.lag == 0:
            self.progressed = self.turned
        self.pulse = pulse

    def end(self, phase: Phase) -> None:
        self._stop.set()
        self._follow_clock()
        self.phase, self.turned = phase, time.time()
        self.beat()

    def _follow_clock(self) -> None:
        """Move what was noted along when the machine's clock is set: how long ago it was has not changed."""
        with self._setting:
            ahead = time.time() - time.monotonic()
            step = ahead - self._ahead
            if abs(step) > CLOCK_SET_S:
                self.started, self.progressed, self.turned = (
                    at + step for at in (self.started, self.progressed, self.turned)
                )
            self._ahead = ahead


def run(stage: Stage, context: Context) -> None:
    """Run a stage until it is finished or a SIGTERM or SIGINT asks it to stop; then save and close.

    Raises
    ------
    TidemillError
        Whatever stopped the stage; the command turns it into one line and an exit code.

    Notes
    -----
    Where garbage collection was turned off for a quick start it begins once the stage is open, and leaves out what
    stays for good: modules, compiled code, the loaded models.
    """
    log = structlog.get_logger().bind(service=stage.name)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    heart = _Heart(stage, context)
    heart.start()
    clean = False
    try:
        stage.open()
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        log.info("running", **_words(stage.pulse()))
        heart.phase = "running"
        _turn_until(stage, context, heart, asked)
        heart.phase = "draining"
        stage.save()
        heart.turn(stage.pulse())
        clean = True
    except Exception as error:
        if isinstance(error, TidemillError):
            log.error("stopped", error=str(error))  # noqa: TRY400 - one line for a person; the cause is chained
        heart.end("failed")
        raise
    finally:
        stage.close(clean=clean)
    heart.end("done")
    log.info("done" if stage.finished else "stopped on request", **_words(heart.pulse))


def _turn_until(stage: Stage, context: Context, heart: _Heart, asked: threading.Event) -> None:
    turning = Turning(stage, context)
    pulsed = context.clock.monotonic()
    while not asked.is_set() and not stage.finished:
        turning.once(IDLE_S)
        now = context.clock.monotonic()
        if now - pulsed >= BEAT_S / 2:
            heart.turn(stage.pulse())
            pulsed = now


class Turning:
    """One turn of the loop after another: work, and a save when one is due."""

    def __init__(self, stage: Stage, context: Context) -> None:
        self._stage, self._context = stage, context
        self._saved, self._dirty = context.clock.monotonic(), False

    def once(self, wait_s: float) -> None:
        """Work once, waiting at most ``wait_s`` for something to do, and save when that is due."""
        self._dirty = bool(self._stage.work(wait_s)) or self._dirty
        now = self._context.clock.monotonic()
        if self._dirty and now - self._saved >= self._context.checkpoint_s:
            self._stage.save()
            self._saved, self._dirty = now, False


def _words(pulse: Pulse) -> Mapping[str, object]:
    return {"progress": pulse.progress, "lag": pulse.lag, **pulse.detail}
