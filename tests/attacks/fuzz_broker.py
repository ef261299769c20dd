"""Fuzzing of the dev broker, in this process: ``python -m tests.attacks.fuzz_broker --seconds 3600``.

Sequences of requests, made by the protocol's schemas and then spoilt, go to a real broker on a real disk. With
``atheris`` installed (it is not a dependency) coverage guides the search; without, chance alone does. A finding is an
exception that is not a MalformedFrame, or a request that keeps the event loop for more than 100 ms of processor time.
The inputs that reach something new are kept below ``--corpus``; findings are printed, and written there too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import structlog

PATIENCE_S = 0.02
"""How long a request may wait (for data, or for a group) before the next one goes on."""

STALL_S, GUIDED_STALL_S = 0.1, 0.3
"""The second one where the code counts its own branches, which takes it about three times as long."""

FRESH_EVERY = 500
_LENGTH = struct.Struct(">I")


def packed(frames: list[bytes]) -> bytes:
    """Return a sequence of frames as one input."""
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def unpacked(data: bytes) -> list[bytes]:
    """Return the frames of an input; a length that is too large means all the rest."""
    frames, at = [], 0
    while at + _LENGTH.size <= len(data) and len(frames) < 8:
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        frames.append(data[at : at + min(length, 1 << 20)])
        at += length
    return frames


class Turns:
    """Watches how long the event loop was kept by any one callback, in processor time of its thread."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._run = run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        asyncio.Handle._run = timed

    def end(self) -> None:
        """Watch no more."""
        asyncio.Handle._run = self._run


class Victim:
    """A broker with topics ``t`` and ``u``, made again every so often; what it does with frames is watched."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        from streaming.devbroker.broker import Broker
        from streaming.devbroker.cursor import MalformedFrame
        from streaming.devbroker.dispatch import answered

        self._make, self._malformed, self._answered = Broker, MalformedFrame, answered
        self._root = Path(tempfile.mkdtemp(prefix="fuzz-broker-"))
        self._loop = asyncio.new_event_loop()
        self.runs = self.requests = 0
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self._stall_s, self._turns = stall_s, Turns()
        self._broker = None

    def run(self, frames: list[bytes]) -> None:
        """Give a broker these frames, one after the other.

        Raises
        ------
        Exception
            What escaped: a finding.
        """
        if self.runs % FRESH_EVERY == 0:
            self.close()
            (self._root / "data").mkdir()
            self._broker = self._make(self._root / "data", "never")
            for name in ("t", "u"):
                self._broker.topics.create(name, 2, {"retention.ms": "-1"})
        self.runs += 1
        self._loop.run_until_complete(self._all(frames))

    async def _all(self, frames: list[bytes]) -> None:
        tasks = []
        for frame in frames:
            self.requests += 1
            self._turns.longest = 0.0
            task = asyncio.ensure_future(self._answered(self._broker, frame, "/127.0.0.1"))
            await asyncio.wait([task], timeout=PATIENCE_S)
            self.slowest = max(self.slowest, self._turns.longest)
            if self._turns.longest > self._stall_s:
                stalled = f"{self._turns.longest * 1000:.0f} ms of the event loop"
                raise AssertionError(f"{stalled} for {frame[:40]!r} ({len(frame)} bytes)")
            tasks.append(task)
        self._broker.tick(self._loop.time() + random.choice((0.0, 0.0, 10.0, 4_000.0)))
        await asyncio.wait(tasks, timeout=PATIENCE_S) if tasks else None
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            kind = type(ended).__name__
            self.outcomes[kind] += 1
            if isinstance(ended, Exception) and not isinstance(ended, self._malformed):
                raise ended

    def close(self) -> None:
        """Stop the broker, and remove what it wrote."""
        if self._broker is not None:
            self._broker.close()
            self._broker = None
        shutil.rmtree(self._root / "data", ignore_errors=True)

    def remove(self) -> None:
        """Leave nothing behind."""
        self.close()
        self._turns.end()
        self._loop.close()
        shutil.rmtree(self._root, ignore_errors=True)


def mutated(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """Return a sequence of frames that differs in one thing."""
    from tests.attacks.requests import made, spoilt

    frames = list(frames)
    choice = rng.randrange(6)
    if choice == 0 or not frames:
        frames.insert(rng.randrange(len(frames) + 1), made(rng))
    elif choice == 1 and len(frames) > 1:
        del frames[rng.randrange(len(frames))]
    elif choice == 2:
        frames[rng.randrange(len(frames))] = made(rng)
    else:
        at = rng.randrange(len(frames))
        frames[at] = spoilt(frames[at], rng, rng.choice(frames))
    return frames[:6]


def _report(error: BaseException, frames: list[bytes], found: dict[str, Path], folder: Path) -> None:
    """Print a finding that is new, and keep its input."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    key = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
    if key in found:
        return
    found[key] = path = folder / f"finding-{len(found)}.bin"
    path.write_bytes(packed(frames))
    print(f"FINDING {key}: {str(error)[:200]} -> {path}", flush=True)
    traceback.print_exception(error, file=sys.stdout)


def main() -> None:
    """Fuzz for a while, and say what came of it; exit with 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="a directory of inputs, read and added to")
    parser.add_argument("--chance", action="store_true", help="do not let coverage guide the search")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder = chosen.corpus or Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    guide = None
    if not chosen.chance:
        with contextlib.suppress(ImportError):
            import atheris as guide
    found: dict[str, Path] = {}
    if guide is None:
        _by_chance(chosen.seconds, chosen.seed, found, folder)
    else:
        _guided(guide, chosen.seconds, chosen.seed, found, folder)
    sys.exit(1 if found else 0)


def _figures(victim: Victim, began: float, found: dict[str, Path]) -> str:
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return (
        f"{victim.runs} inputs, {victim.requests} requests in {time.monotonic() - began:.0f} s; outcomes "
        f"{dict(victim.outcomes)}; slowest request {victim.slowest * 1000:.0f} ms of the loop; "
        f"peak memory {resident} MiB; {len(found)} findings"
    )


def _tried(victim: Victim, frames: list[bytes], found: dict[str, Path], folder: Path) -> None:
    try:
        victim.run(frames)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        _report(error, frames, found, folder)
        victim.runs += -victim.runs % FRESH_EVERY  # go on with a fresh broker


def _by_chance(seconds: float, seed: int, found: dict[str, Path], folder: Path) -> None:
    from tests.attacks.requests import sound

    rng, victim, began = random.Random(seed), Victim(), time.monotonic()
    pool = [[frame] for _, frame in sound()]
    while time.monotonic() - began < seconds:
        frames = mutated(rng.choice(pool), rng)
        _tried(victim, frames, found, folder)
        if rng.random() < 0.2:
            pool[rng.randrange(len(pool))] = frames
    print(_figures(victim, began, found), flush=True)
    victim.remove()


def _guided(guide: object, seconds: float, seed: int, found: dict[str, Path], folder: Path) -> None:
    with guide.instrument_imports(include=["streaming.devbroker"]):
        from tests.attacks.requests import sound
    victim, began = Victim(GUIDED_STALL_S), time.monotonic()
    for name, frame in sound():
        (folder / f"sound-{name}.bin").write_bytes(packed([frame]))
    said = began

    def one(data: bytes) -> None:
        nonlocal said
        _tried(victim, unpacked(data), found, folder)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(_figures(victim, began, found), flush=True)

    def mutator(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return guide.Mutate(data, most)
        return packed(mutated(unpacked(data), rng))[:most]

    flags = [sys.argv[0], str(folder), f"-max_total_time={int(seconds)}", "-max_len=65536", f"-seed={seed + 1}"]
    guide.Setup([*flags, "-rss_limit_mb=4096", "-timeout=60", "-len_control=0"], one, custom_mutator=mutator)
    try:
        guide.Fuzz()
    finally:
        print(_figures(victim, began, found), flush=True)
        victim.remove()


if __name__ == "__main__":
    main()
