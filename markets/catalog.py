"""Which market a project names: the one place where a source is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domain.config import Places, Project
from domain.errors import UsageError
from domain.market import CCXT, SOURCES, Market
from markets.findings import lasting
from markets.pacing import WALL, Clock
from markets.recorded import Recorded
from markets.simulated import Simulated
from markets.source import Source

if TYPE_CHECKING:  # what talks to exchanges is loaded for markets that have one
    from collections.abc import Callable

    from markets.ccxt import CcxtMarket
    from markets.live import Live
    from markets.venue import Venue


def source_of(project: Project, places: Places | None = None, clock: Clock = WALL, *, record: bool = False) -> Source:
    """Return the configured source, holding the project's instruments in their order.

    Parameters
    ----------
    project
        What to predict.
    places
        Where an exchange in a box answers; None means its usual port.
    clock
        What paced feeds go by.
    record
        Whether what an exchange sends is recorded, below ``recordings`` in the home.

    Raises
    ------
    UsageError
        When the source is unknown, or a file is refused, lacks an instrument, or has candles of another length than
        the project's bars.
    """
    market = project.market
    if market.source == "simulated":
        return simulated_of(project, clock)
    if market.source == "recorded":
        source = Recorded(market.path, instruments=project.instruments, clock=clock)
        if source.interval not in {None, project.interval}:
            has = lasting(source.interval or 0)
            raise UsageError(
                f"{', '.join(market.path)}: has candles of {has}, the project bars of {lasting(project.interval)}; "
                f'set interval = "{has}" or give other files'
            )
        return source
    if market.live or market.source in {"auto", "box"}:
        return exchange_of(project, places, record=record)
    raise UsageError(f"unknown source {market.source!r}; set market.source to {', '.join(SOURCES)} or ccxt:EXCHANGE")


def simulated_of(project: Project, clock: Clock = WALL) -> Simulated:
    """Return the made-up market of a project: its source, or what an exchange in a box serves."""
    market = project.market
    return Simulated(market.seed, project.instruments, market.opens_ns, market.history_days, clock)


def exchange_of(
    project: Project, places: Places | None = None, patience_s: float | None = None, *, record: bool = False
) -> Live | CcxtMarket:
    """Return the live exchange of a project, or the one in a box through the same connector.

    Parameters
    ----------
    project, places, record
        As of ``source_of``.
    patience_s
        Seconds for which requests that fail are repeated; None: as long as usual.
    """
    from markets.patience import PATIENCE_S

    market, places = project.market, places or Places()
    patience_s = PATIENCE_S if patience_s is None else patience_s
    if market.source.startswith(CCXT):
        from markets.ccxt import CcxtMarket

        return CcxtMarket(
            market.venue, project.instruments, market.opens_ns, market.history_ns(project.interval),
            interval=project.interval, patience_s=patience_s,
        )  # fmt: skip
    from functools import partial

    import structlog

    from markets.live import Live
    from markets.rest import RestClient
    from markets.venue import Address

    live = market.live
    tell = structlog.get_logger().bind(exchange=market.source).info
    local = f"127.0.0.1:{places.exchange_port}"
    venue = _venue(market, places, f"http://{local}", tell)
    address = venue.address if live else Address(f"http://{local}", f"ws://{local}")
    rest = partial(RestClient, address.rest, venue.weight_a_minute, patience_s, tell=tell)
    return Live(
        venue, rest, project.instruments, market.opens_ns, market.history_ns(project.interval),
        interval=project.interval, address=address, simulated=not live,
        record=places.home / "recordings" if record else None,
    )  # fmt: skip


def _venue(market: Market, places: Places, box: str, tell: Callable[[str], object]) -> Venue:
    from markets.archives import BASE, ArchivedBinance
    from markets.downloads import Downloads, fleeting
    from markets.kraken import Kraken

    if market.source == "kraken":
        return Kraken()
    if market.source == "binance":
        return ArchivedBinance(lambda: Downloads(places.home / "archives", BASE, tell=tell), tell)
    return ArchivedBinance(lambda: fleeting(box, tell), tell, market.venue)  # another seed is another market
