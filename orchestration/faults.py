"""What a chaos run does to the services: each fault happens to a real process, and is over when its call returns.

kill       SIGKILL of the service's process; its shim starts it again
pause      SIGSTOP; meanwhile another copy of the service takes over, for longer than a lease lasts; SIGCONT
duplicate  a second copy started by a person, which must refuse, and one not told of the first, as on another host
tear       the trainer is stopped, its newest artifacts are damaged, and it is killed
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from domain.errors import BadState, UsageError
from orchestration.deployment import SUPERVISED, Deployment
from orchestration.processes import LINUX, identity, wait_gone
from orchestration.shim import EXIT_USAGE
from orchestration.supervisor import NOTHING
from warehouse.control import Control, writer_at
from warehouse.heartbeats import Heartbeats
from warehouse.holders import holder_of
from warehouse.registry import Registry
from warehouse.versions import Version

Fault = Literal["kill", "pause", "duplicate", "tear"]
FAULTS: tuple[Fault, ...] = ("kill", "pause", "duplicate", "tear")

PAUSE_S = 16.0
"""Longer than the trainer's lease and the broker's patience with a silent member."""

TOGETHER = 6
"""Services killed at one instant, at most: all of them, as when a machine goes down."""

LAST = 0.9
"""Share of the stream after which nothing is disturbed any more: the sources must still be there to be killed."""

STARTS_S = 180.0
ENDS_S = 60.0
WORKS_S = 2.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Moment:
    """One instant of a schedule.

    Attributes
    ----------
    learned : examples the trainer has learned in the stream when it is due
    delay_s : how much later it happens
    """

    learned: int
    delay_s: float
    fault: Fault
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"after {self.learned:,} examples + {self.delay_s:.2f} s: {self.fault} {', '.join(self.victims)}"


def schedule(
    seed: int, kills: int, trials: int, kinds: Sequence[Fault], stream: int, victims: Sequence[str]
) -> list[Moment]:
    """Return what happens when: a function of its arguments alone.

    Parameters
    ----------
    kills : services killed in all
    trials : times that each other fault happens
    stream : examples that the undisturbed run learned from the stream
    """
    rng = random.Random(seed)
    acts: list[tuple[Fault, tuple[str, ...]]] = []
    left = kills if "kill" in kinds else 0
    while left:
        some = min(left, rng.randint(1, min(TOGETHER, len(victims))))
        acts.append(("kill", tuple(rng.sample(victims, some))))
        left -= some
    for kind in kinds:
        for trial in range(trials if kind != "kill" else 0):
            victim = "trainer" if kind == "tear" else victims[(seed + trial) % len(victims)]
            acts.append((kind, (victim,)))
    rng.shuffle(acts)
    step = LAST * stream / max(1, len(acts))
    return [
        Moment(int((k + rng.random()) * step), round(rng.random(), 2), fault, chosen)
        for k, (fault, chosen) in enumerate(acts)
    ]


def fault_kinds(text: str) -> list[Fault]:
    """Return the kinds of fault of a list with commas.

    Raises
    ------
    UsageError
        When one is unknown.
    """
    kinds = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [kind for kind in kinds if kind not in FAULTS]
    if unknown or not kinds:
        what = f"{unknown[0]!r} is not a fault" if unknown else "names none"
        raise UsageError(f"--faults {text}: {what}; choose some of {','.join(FAULTS)}")
    return [fault for fault in FAULTS if fault in kinds]


def pause(deployment: Deployment, name: str, beats: Heartbeats) -> str:
    """Stop a service in mid-step, let a copy take over, wake it; return how the copy ended."""
    fall_asleep(deployment, name)
    began = time.monotonic()
    try:
        with second(deployment, name) as copy:
            until_it_works(copy, name, beats)
            time.sleep(max(0.0, PAUSE_S - (time.monotonic() - began)))
            deployment.supervisor.kill(name, signal.SIGCONT)
            return _how_it_ended(copy)
    finally:
        deployment.supervisor.kill(name, signal.SIGCONT)


def fall_asleep(deployment: Deployment, name: str) -> None:
    """Stop a service in mid-step, but not while it holds the control database's write lock.

    There it would hold up the copy that is to take over; what ends such a one is the shim's business.

    Raises
    ------
    BadState
        When it holds the lock each time for a minute.
    """
    until = time.monotonic() + ENDS_S
    while time.monotonic() < until:
        deployment.supervisor.kill(name, signal.SIGSTOP)
        pid = deployment.supervisor.status(name).pid
        while LINUX and pid is not None and not (holder_of(pid).stopped or gone_within(pid, 0.0)):
            time.sleep(_POLL_S)
        writer = writer_at(deployment.places.control)
        if writer is None or writer.pid != pid:
            return
        deployment.supervisor.kill(name, signal.SIGCONT)
        time.sleep(_POLL_S)
    raise BadState(f"{name} holds the write lock of the control database whenever it is stopped; see its log")


def duplicate(deployment: Deployment, name: str, beats: Heartbeats) -> str:
    """Start a service twice, knowingly and unknowingly; return how the second copy ended.

    Raises
    ------
    BadState
        When the command does not refuse to start what runs already.
    """
    refused = _command(deployment, name, {SUPERVISED: ""})
    try:
        code = refused.wait(STARTS_S)
    except subprocess.TimeoutExpired as error:
        refused.kill()
        raise BadState(f"'tidemill run {name}' runs beside the supervised {name} instead of refusing") from error
    if code != EXIT_USAGE:
        raise BadState(f"'tidemill run {name}' beside the supervised {name} ended with code {code}, not {EXIT_USAGE}")
    with second(deployment, name) as copy:
        if until_it_works(copy, name, beats):
            time.sleep(WORKS_S)
        return _how_it_ended(copy, wait_s=WORKS_S)


def tear(deployment: Deployment, control: Control, rng: random.Random) -> list[str]:
    """Stop the trainer, damage the newest artifact of each line, kill it; return what was damaged."""
    fall_asleep(deployment, "trainer")  # so that the next one finds the damage, however soon it comes
    try:
        registry = Registry(control, deployment.places.models)
        newest = [registry.newest(line) for line in deployment.project.instruments]
        return [damage(version, rng) for version in newest if version is not None and version.number > 1]
    finally:
        deployment.supervisor.kill("trainer", signal.SIGKILL)


def damage(version: Version, rng: random.Random) -> str:
    """Flip a bit, cut the end off or empty a sector of an artifact; return what was done."""
    data = bytearray(version.path.read_bytes())
    at = rng.randrange(len(data))
    how = rng.choice(("bit flipped", "cut", "sector lost"))
    if how == "cut":
        del data[at:]
    elif how == "bit flipped":
        data[at] ^= 1 << rng.randrange(8)
    else:
        at -= at % 512
        sector = bytes(byte ^ 0xFF for byte in data[at : at + 512])  # surely not what was there
        data[at : at + 512] = sector
    version.path.write_bytes(data)
    return f"{version.line} version {version.number}: {how} at byte {at}"


@contextlib.contextmanager
def second(deployment: Deployment, name: str, more: Mapping[str, str] = NOTHING) -> Iterator[subprocess.Popen[bytes]]:
    """Run one more copy of a service, not told of the first; it is gone afterwards.

    Parameters
    ----------
    more : environment that replaces the service's own
    """
    copy = _command(deployment, name, more)
    try:
        yield copy
    finally:
        if copy.poll() is None:
            copy.kill()
        copy.wait()


def _command(deployment: Deployment, name: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    log = deployment.places.home / "services" / f"{name}-second.log"
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            deployment.argv(name),
            env={**os.environ, **deployment.environment(), **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def gone_within(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; tell whether it did in time."""
    who = identity(pid)
    return who is None or wait_gone(who, timeout_s)


def until_it_works(copy: subprocess.Popen[bytes], name: str, beats: Heartbeats) -> bool:
    """Wait until the copy works or has ended; tell whether it works."""
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        if copy.poll() is not None:
            return False
        if any(b.service == name and b.pid == copy.pid and b.phase == "running" for b in beats.beats()):
            return True
        time.sleep(_POLL_S)
    raise BadState(f"a second {name} neither works nor ends within {STARTS_S:.0f} s")


def _how_it_ended(copy: subprocess.Popen[bytes], wait_s: float = ENDS_S / 4) -> str:
    """Return how the copy ended: of itself, or because it was asked to."""
    try:
        code = copy.wait(wait_s)
    except subprocess.TimeoutExpired:
        copy.terminate()
        code = copy.wait(ENDS_S)
        return f"worked beside it, asked to stop: exit code {code}"
    return f"exit code {code}"
