"""What the assets are given: the project, the doors to lake, market and control database, and hands that deploy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from domain.config import Places, Project

if TYPE_CHECKING:  # DuckDB, Arrow and the market are loaded by runs only, not by every process that lists the assets
    from markets.source import Source
    from warehouse.control import Control
    from warehouse.lake import Lake


@dataclass(frozen=True)
class Mill:
    """What to predict, and where everything is.

    Attributes
    ----------
    project : what to predict
    places : where things are
    """

    project: Project
    places: Places

    @property
    def market(self) -> str:
        """What every picture says of its numbers: nobody may take a made-up market for a real one."""
        market = self.project.market
        boxed = ", an exchange in a box" if market.source == "box" else ""
        return f"SIMULATED market{boxed}" if market.simulated else f"{market.source} market"

    @contextmanager
    def lake(self) -> Iterator[Lake]:
        """Open the lake for a while, creating it when there never was one."""
        from warehouse.lake import Lake

        with Lake.open(self.places) as lake:
            yield lake

    @contextmanager
    def control(self) -> Iterator[Control]:
        """Open the control database for a while, creating it when there never was one."""
        from warehouse.control import Control

        with Control.of(self.places) as control:
            yield control

    def source(self) -> Source:
        """Return the market."""
        from markets.catalog import source_of

        return source_of(self.project, self.places)


@dataclass(frozen=True)
class Service:
    """A service as its supervisor sees it.

    Attributes
    ----------
    phase : ``running``, ``done``, ``failed``, ``crashed`` ...
    pid : of its process, None when there is none
    generation : counts its deployments
    restarts : after crashes, since it was deployed
    why : how its last process ended
    command : what runs
    config, code : fingerprints of what it was deployed with
    started_at : of its process, unix seconds; 0 before the first
    """

    phase: str
    pid: int | None
    generation: int
    restarts: int
    why: str
    command: str
    config: str
    code: str
    started_at: float


class Deployer(Protocol):
    """Whoever can put a service in place; local processes here, elsewhere a cluster."""

    def fingerprint(self, name: str) -> Mapping[str, str]:
        """Return digests of today's configuration and code, as far as the service depends on them."""
        ...

    def rehearse(self, name: str) -> str:
        """Try today's configuration and code, opening nothing; return the last lines of a failure, or nothing."""
        ...

    def redeploy(self, name: str) -> None:
        """Replace the service's process, if any, by one with today's configuration and code."""
        ...

    def look(self, name: str) -> Service:
        """Say how the service is."""
        ...

    def tail(self, name: str, n: int) -> list[str]:
        """Return the last lines that the service printed."""
        ...
