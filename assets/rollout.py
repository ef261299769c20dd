"""A rollout: services put in place with today's code, what runs being replaced only by what has been rehearsed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from assets.resources import Deployer, Mill, Service
from domain.health import Beat, live

DEADLINE_S = 60.0
"""From the start of a service to its word that it is ready: imports, a model, a topic to catch up, on a busy laptop."""

REHEARSALS = 3
"""In a row, while the files change under them."""

_POLL_S = 0.1
_TAIL = 15


@dataclass(frozen=True)
class Settled:
    """How one service's turn ended.

    Attributes
    ----------
    took : seconds from the redeployment to its health, or to the fault
    at : when, unix seconds
    fault : why it is not healthy, or was not touched; empty when all is well
    last_words : the lines that go with the fault
    """

    name: str
    service: Service
    took: float
    at: float
    fault: str = ""
    last_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """Puts services in place.

    Attributes
    ----------
    refuse : told the service and the fingerprint that failed its rehearsal
    """

    mill: Mill
    deployer: Deployer
    log: logging.Logger
    refuse: Callable[[str, str], None]

    def settle(self, names: Sequence[str]) -> Iterator[Settled]:
        """Put the named services, which are in the flow's order, in place; yield each when its turn has ended.

        Notes
        -----
        What does not run, or hangs, starts side by side with its like: nothing is lost by it. What gets on is replaced
        afterwards, one by one, each when the former is healthy. The first that fails is the last that is touched.
        """
        beats = beats_of(self.mill)
        looks = {name: self.deployer.look(name) for name in names}
        working = [name for name in names if _gets_on(looks[name], beats.get((name, looks[name].pid or 0)))]
        failed = False
        for settled in self._together([name for name in names if name not in working]):
            failed = failed or bool(settled.fault)
            yield settled
        for name in working:
            if failed:
                yield Settled(name, looks[name], 0.0, time.time(), "was not touched: another one failed before it")
                continue
            if lines := self._rehearsed(name):
                last = next((line for line in reversed(lines) if line.strip()), "")
                fault = f"goes on as it is: today's code or configuration failed the rehearsal: {last}"
                settled = Settled(name, looks[name], 0.0, time.time(), fault, tuple(lines[-_TAIL:]))
            else:
                (settled,) = self._together([name])
            failed = bool(settled.fault)
            yield settled

    def _rehearsed(self, name: str) -> list[str]:
        """Return what a failed rehearsal said; nothing when it went well."""
        lines: list[str] = []
        for _ in range(REHEARSALS):
            cure = " ".join(self.deployer.fingerprint(name).values())
            began = time.monotonic()
            lines = self.deployer.rehearse(name).splitlines()
            self.log.info("%s: rehearsed in %.1f s", name, time.monotonic() - began)
            if cure == " ".join(self.deployer.fingerprint(name).values()):
                break
        if lines:
            self.refuse(name, cure)
        return lines

    def _together(self, names: Sequence[str]) -> Iterator[Settled]:
        """Redeploy side by side; yield each service as soon as it is healthy or will not be."""
        from warehouse.heartbeats import Heartbeats

        began = time.monotonic()
        for name in names:
            self.log.info("redeploying %s", name)
            self.deployer.redeploy(name)
        waiting = list(names)
        with self.mill.control() as control:
            while waiting:
                beats = {(beat.service, beat.pid): beat for beat in Heartbeats(control).beats()}
                for name in waiting.copy():
                    service, took = self.deployer.look(name), time.monotonic() - began
                    healthy = _healthy(service, beats.get((name, service.pid or 0)))
                    fault = "" if healthy else _fault(service, took)
                    if healthy or fault:
                        waiting.remove(name)
                        words = tuple(self.deployer.tail(name, _TAIL)) if fault else ()
                        yield Settled(name, service, took, time.time(), fault, words)
                time.sleep(_POLL_S)


def beats_of(mill: Mill) -> dict[tuple[str, int], Beat]:
    """Return the newest heartbeat of each service's processes, by name and pid."""
    from warehouse.heartbeats import Heartbeats

    with mill.control() as control:
        return {(beat.service, beat.pid): beat for beat in Heartbeats(control).beats()}


def _gets_on(service: Service, beat: Beat | None) -> bool:
    """Tell whether there is something to lose: a process that gets on, or is still within the grace of its start."""
    return service.phase == "running" and (beat is None or live(beat, time.time()))


def _healthy(service: Service, beat: Beat | None) -> bool:
    if service.phase == "done":
        return True
    return service.phase == "running" and beat is not None and beat.phase == "running" and beat.ready


def _fault(service: Service, took: float) -> str:
    """Say why waiting is over, or nothing."""
    if service.phase in {"failed", "crashed", "crash_loop", "lost", "orphan", "stopped"}:
        return f"ended: {service.phase}, {service.why}"
    return f"is not ready after {took:.0f} s" if took > DEADLINE_S else ""
