"""An exchange in a box: by hand over any market, or as the service that a home's market stands on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from domain.config import Places, Project
from domain.errors import TidemillError, UsageError
from domain.events import nanos_at
from domain.fields import parse_instrument
from domain.market import parse_moment
from markets.box.clock import MarketClock
from markets.box.faults import Faults
from markets.box.server import Box, opening_of
from markets.catalog import simulated_of
from markets.simulated import Simulated
from markets.source import Source
from orchestration.pulse import pulse
from orchestration.settings import read_places, read_project

SIMULATED = "simulated"

LOOK_S = 2.0
"""Seconds between two looks at the configuration."""


def serve(
    sources: Sequence[str],
    instruments: Sequence[str],
    opens: datetime | None,
    speed: float | None,
    port: int,
    faults: Faults,
) -> None:
    """Say where the box is, and serve it until it is stopped; its clock is kept in the home.

    Parameters
    ----------
    sources
        ``simulated``, or files of trades or frames.
    instruments
        Which to serve; none means all in the files, or the project's.
    opens
        Where a new market begins; None: where the project says, or with the first trade of the files.
    speed
        Event seconds per wall second; None: the project's.

    Raises
    ------
    UsageError
        When a source cannot be served, or the port is taken.
    """
    places = read_places()
    project = read_project(places)
    _demand_fit(instruments, opens)
    source, frames = _source(sources, instruments, project)
    begins = opening_of(source) if opens is None else nanos_at(opens)
    places.home.mkdir(parents=True, exist_ok=True)
    path = places.home / f"exchange-{port}.clock"  # not that of the service, which may run beside
    clock = MarketClock(begins, project.market.speed if speed is None else speed, path)
    box = Box(source, clock, port, faults, frames)
    prices = "SIMULATED prices" if box.state()["simulated"] else "recorded prices"
    print(  # noqa: T201 - the command's answer
        f"{prices} of {', '.join(source.instruments)} at {box.address.rest} and {box.address.stream}, as Binance"
        " (/api/v3, /data, /ws, /stream) and as Kraken (/0/public, /v2);"
        f" its clock and its faults: {box.address.rest}/box",
        flush=True,
    )
    box.run()


def _demand_fit(instruments: Sequence[str], opens: datetime | None) -> None:
    for name in instruments:
        try:
            parse_instrument(name)
        except ValueError as error:
            raise UsageError(f"--instrument {error}") from error
        if instruments.count(name) > 1:
            raise UsageError(f"--instrument {name!r} comes twice; name it once")
    if opens is not None:
        try:
            parse_moment(opens)
        except ValueError as error:
            raise UsageError(f"--opens {error}") from error


def serve_project(places: Places, project: Project) -> None:
    """Serve a project's made-up market until asked to stop; instruments that join the project are traded here, too."""
    now: Project | None = project
    while now is not None:
        market = now.market
        clock = MarketClock(market.opens_ns, market.speed, places.home / "exchange.clock")
        now = _until_changed(Box(simulated_of(now), clock, places.exchange_port, on_tick=pulse()), places, now)


def _until_changed(box: Box, places: Places, project: Project) -> Project | None:
    """Serve until instruments or speed are others, and return the project as it is then; None when asked to stop."""
    ended, changed = threading.Event(), list[Project]()

    def watch() -> None:
        while not changed and not ended.wait(LOOK_S):
            with contextlib.suppress(TidemillError):  # half of a file that is just being written
                now = read_project(places)
                if (now.instruments, now.market.speed) != (project.instruments, project.market.speed):
                    changed.append(now)
                    box.stop()

    watcher = threading.Thread(target=watch, name="configuration", daemon=True)
    watcher.start()
    try:
        box.run()
    finally:
        ended.set()
        watcher.join()
    return changed[0] if changed else None


def _source(sources: Sequence[str], instruments: Sequence[str], project: Project) -> tuple[Source, tuple[Path, ...]]:
    """Return the market, and its frame files if it is made of nothing else."""
    if list(sources) == [SIMULATED]:
        market = project.market
        names = instruments or project.instruments
        return Simulated(market.seed, names, market.opens_ns, market.history_days), ()
    if SIMULATED in sources:
        raise UsageError(f"--source {SIMULATED} is a market of its own; give it alone, or files alone")
    from markets.recorded import Recorded

    paths = tuple(Path(source) for source in sources)
    frames = all(path.name.endswith((".jsonl", ".jsonl.zst")) for path in paths)
    return Recorded(paths, instruments=instruments or None), paths if frames else ()
