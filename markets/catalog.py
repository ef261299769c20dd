"""Which market a project names: the one place where a source is chosen."""

from __future__ import annotations

from domain.config import Project
from domain.errors import UsageError
from markets.findings import lasting
from markets.pacing import WALL, Clock
from markets.recorded import Recorded
from markets.simulated import Simulated
from markets.source import Source


def source_of(project: Project, clock: Clock = WALL) -> Source:
    """Return the configured source, holding the project's instruments in their order.

    Parameters
    ----------
    project
        What to predict.
    clock
        What paced feeds go by.

    Raises
    ------
    UsageError
        When the source is unknown, a file is refused, lacks an instrument, or has candles of another length than the
        project's bars.
    """
    market = project.market
    if market.source == "simulated":
        return Simulated(market.seed, project.instruments, market.opens_ns, market.history_days, clock)
    if market.source == "recorded":
        source = Recorded(market.path, instruments=project.instruments, clock=clock)
        if source.interval not in {None, project.interval}:
            has = lasting(source.interval or 0)
            raise UsageError(
                f"{', '.join(market.path)}: has candles of {has}, the project bars of {lasting(project.interval)}; "
                f'set interval = "{has}" or give other files'
            )
        return source
    raise UsageError(f"unknown source {market.source!r}; set market.source to simulated or recorded")
