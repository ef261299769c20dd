"""A home's opening: which market it holds, and when its stream begins, settled once when the home begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from domain.config import Places, Project
from domain.errors import BadState, Unavailable
from domain.events import NANOS_PER_SECOND, nanos_at
from domain.market import KRAKEN_KEEPS, KRAKEN_TELLS, Source, is_live
from orchestration.settings import Opening, configured_market, read_project, read_toml
from warehouse.files import write_atomic

AUTO: tuple[Source, ...] = ("binance", "kraken")
"""Exchanges that ``auto`` asks, in this order: the one that tells all of its history first."""

ANSWERS_WITHIN_S, PATIENCE_S = 2.0, 30.0
"""Seconds that an exchange is waited for: where another market will do, and where it was asked for by name."""

MOST_OFF_S = 5.0
"""Seconds that this machine's clock may differ from an exchange's: an answer may have been that long on its way."""


def settled_project(places: Places) -> Project:
    """Return what to predict; where the home's market is not settled yet, settle it.

    Raises
    ------
    UsageError
        When the configuration is unfit, or the exchange lacks an instrument.
    Unavailable
        When the exchange that is asked for cannot be reached, is in maintenance, or this machine's clock is wrong.
    """
    project = read_project(places)
    asked = project.market.source
    if not (asked == "auto" or project.market.live or places.market):
        return project
    if (opening := Opening.of(places)) is not None and not _too_late(places, project, opening):
        return project
    if opening is None and places.lake.exists():
        raise BadState(
            f"{Opening.path(places)} is missing, and this home holds data of a market that nobody can name: restore "
            "the file, or begin anew with another TIDEMILL_HOME"
        )
    log = structlog.get_logger()
    source: Source = "box" if asked == "auto" else asked
    opens = project.market.opens
    if project.market.live:
        opens = _asked(asked, project, PATIENCE_S)
    elif asked == "auto":
        for name in AUTO:
            try:
                source, opens = name, _asked(name, project, ANSWERS_WITHIN_S)
                break
            except Unavailable as error:  # also where it serves nobody of this country
                log.info("no live market", exchange=name, why=str(error))
    _write(places, _opening(places, source, opens, project))
    log.info("market", source=source, opens=opens.isoformat(), simulated=not is_live(source))
    return read_project(places)


def join(places: Places, project: Project, instruments: Sequence[str], clock: int) -> Project:
    """Let instruments join a home whose market has come to ``clock`` (ns), where their own streams then begin.

    One that has joined keeps its moment.
    """
    moment = datetime.fromtimestamp(clock // project.interval * project.interval / NANOS_PER_SECOND, UTC)
    opening = Opening.of(places) or _opening(places, project.market.source, project.market.opens, project, instruments)
    joins = {**dict.fromkeys(instruments, moment), **opening.joins}
    if joins != opening.joins:
        _write(places, opening.model_copy(update={"joins": joins}))
    return read_project(places)


def wrong_clock(exchange: str, now: int, wall: Callable[[], int] = time.time_ns) -> str:
    """Return what is wrong with this machine's clock when an exchange's says ``now`` (ns); nothing if it is right."""
    off = (wall() - now) / NANOS_PER_SECOND
    if abs(off) <= MOST_OFF_S:
        return ""
    way, size = ("ahead of", "large") if off > 0 else ("behind", "small")
    return (
        f"this machine's clock is {abs(off):.0f} s {way} {exchange}'s: ages and latencies are shown that much too "
        f"{size}; set it, such as by timedatectl set-ntp true"
    )


def _too_late(places: Places, project: Project, opening: Opening) -> bool:
    """Return whether a home never got its first model and its exchange no longer tells what that would learn from."""
    if opening.source != "kraken" or any(places.models.rglob("*.safetensors")):
        return False
    return time.time_ns() - nanos_at(opening.opens) > (KRAKEN_TELLS - KRAKEN_KEEPS) * project.interval


def _opening(places: Places, source: Source, opens: datetime, project: Project, joining: Sequence[str] = ()) -> Opening:
    said = read_toml(places.config)
    venue = project.market.model_copy(update={"source": source}).venue
    names = (name for name in project.instruments if name not in joining)
    instruments = tuple(f"{venue}:{name.partition(':')[2]}" if venue else name for name in names)
    return Opening(
        source=source, opens=opens, configured=configured_market(said), instruments=instruments,
        seed=None if is_live(source) else project.market.seed,
    )  # fmt: skip


def _write(places: Places, opening: Opening) -> None:
    places.home.mkdir(parents=True, exist_ok=True)
    write_atomic(Opening.path(places), opening.model_dump_json(indent=1).encode())


def _asked(name: str, project: Project, patience_s: float) -> datetime:
    """Return the last whole bar of a live exchange's clock, when it answers and trades all instruments."""
    from markets.catalog import exchange_of

    market = project.market.model_copy(update={"source": name})
    instruments = tuple(f"{market.venue}:{instrument.partition(':')[2]}" for instrument in project.instruments)
    asked = project.model_copy(update={"market": market, "instruments": instruments})
    now = exchange_of(asked, Places(), patience_s).now()
    if wrong := wrong_clock(name, now):
        structlog.get_logger().warning("wrong clock", what=wrong)
    return datetime.fromtimestamp(now // project.interval * project.interval / NANOS_PER_SECOND, UTC)
