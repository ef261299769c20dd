"""An exchange in a box, in the foreground: which market it serves, and where."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from domain.config import Project
from domain.errors import UsageError
from domain.events import NANOS_PER_SECOND
from markets.box.clock import MarketClock
from markets.box.faults import Faults
from markets.box.server import Box, opening_of
from markets.simulated import Simulated
from markets.source import Source
from orchestration.settings import read_places, read_project

SIMULATED = "simulated"


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
    source, frames = _source(sources, instruments, project)
    begins = opening_of(source) if opens is None else _nanos(opens)
    places.home.mkdir(parents=True, exist_ok=True)
    path = places.home / f"exchange-{port}.clock"  # not that of the service, which may run beside
    clock = MarketClock(begins, project.market.speed if speed is None else speed, path)
    box = Box(source, clock, port, faults, frames)
    prices = "SIMULATED prices" if source.simulated else "recorded prices"
    print(  # noqa: T201 - the command's answer
        f"{prices} of {', '.join(source.instruments)} at {box.address.rest} and {box.address.stream}, as Binance"
        f" (/api/v3, /ws, /stream) and as Kraken (/0/public, /v2); its clock and its faults: {box.address.rest}/box",
        flush=True,
    )
    box.run()


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


def _nanos(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * NANOS_PER_SECOND
