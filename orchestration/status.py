"""What a person sees of the services: one row each, from the supervisor's files and the heartbeats."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from domain.errors import TidemillError, UsageError
from domain.health import Beat, live, ready
from domain.services import FLOW, SERVICES
from orchestration.deployment import Deployment
from orchestration.homes import Status
from orchestration.settings import read_places, read_project
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.refusals import Refusal, Refusals

SILENT_S = 25.0
"""Seconds of an open connection's silence that are told: exchanges ping every 20 s, or more often."""

REFUSALS, SHOWN = 100, 5
"""Refused versions in the JSON, and below the table."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One service.

    Attributes
    ----------
    phase : of its process, as the supervisor sees it
    healthy : runs, and its heartbeat (where it has one) says that it is alive and ready
    note : why not
    event_time : how far the market has come for it, UTC
    feed : of ingest: how its connection to the exchange is, see ``markets.feed.Health``
    """

    name: str
    phase: str
    healthy: bool
    pid: int | None = None
    restarts: int = 0
    uptime_s: float | None = None
    lag: int | None = None
    progress: int | None = None
    version: str = ""
    learned: int | None = None
    skill: str = ""
    event_time: str = ""
    note: str = ""
    feed: dict[str, Any] | None = None


def rows_of(deployment: Deployment) -> list[Row]:
    """Return a row for every service, deployed or not yet."""
    beats = _beats(deployment)
    supervisor = deployment.supervisor
    names = (*deployment.foundation, *SERVICES)
    deployed = {name for name in names if supervisor.spec(name) is not None}
    return [
        _row(supervisor.status(name), beats.get(name)) if name in deployed else Row(name, "not deployed", healthy=False)
        for name in names
        if name in deployed or name not in FLOW or not FLOW[name].optional
    ]


def _row(status: Status, beat: Beat | None) -> Row:
    now, running = time.time(), status.phase == "running"
    # A heartbeat counts for the process that sent it, not for its successor.
    ours = beat if beat is not None and beat.pid == status.pid else None
    watched = status.name in SERVICES
    healthy = status.phase == "done" or (running and (not watched or ready(ours, now)))
    note = "" if healthy else status.detail or status.reason or ""
    if running and watched and not healthy:
        note = "no heartbeat yet" if ours is None else ("not ready" if live(ours, now) else "stuck or silent")
    if running and ours is not None and (trouble := _trouble(ours)):
        note = f"{note}: {trouble}" if note else trouble
    row = Row(
        status.name,
        status.phase,
        healthy,
        pid=status.pid if running else None,
        restarts=status.restarts,
        uptime_s=round(now - status.started_at / 1e9, 1) if status.started_at and running else None,
        note=note,
    )
    if beat is None or not watched:
        return row
    detail = beat.detail
    versions, skills, held = (detail.get(name) or {} for name in ("version", "skill", "held"))
    watermark = detail.get("watermark") or 0
    return dataclasses.replace(
        row,
        feed=detail.get("feed"),
        lag=beat.lag,
        progress=beat.progress,
        version=" ".join(f"v{number}{' held' * (name in held)}" for name, number in versions.items()),
        learned=detail.get("n_learned"),
        skill=" ".join(f"{value:+.1%}" for value in skills.values() if value is not None),
        event_time=datetime.fromtimestamp(watermark / 1e9, UTC).strftime("%Y-%m-%d %H:%M") if watermark else "",
    )


def _trouble(beat: Beat) -> str:
    """Return what a service says is wrong with the market outside."""
    feed = beat.detail.get("feed") or {}
    silent = feed.get("silent_s") or 0.0
    quiet = f"nothing came from the exchange for {silent:.0f} s" if silent > SILENT_S else ""
    waiting = [f"{name} waits for REST: {why}" for name, why in (feed.get("waiting") or {}).items()]
    return "; ".join([why for why in (feed.get("problem"), quiet) if why] + waiting)


def table_of(rows: list[Row], title: str = "") -> Table:
    """Return the rows as a table."""
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("service", "phase", "up", "lag", "version", "learned", "skill", "market", "note"):
        side: Literal["left", "right"] = "right" if column in {"up", "lag", "learned"} else "left"
        table.add_column(column, justify=side, no_wrap=column != "note")
    for row in rows:
        colour = (
            "green" if row.healthy else ("yellow" if row.phase in {"running", "starting", "not deployed"} else "red")
        )
        table.add_row(
            row.name,
            f"[{colour}]{row.phase}[/]",
            "" if row.uptime_s is None else f"{row.uptime_s:.0f} s",
            "" if row.lag is None else f"{row.lag:,}",
            row.version,
            "" if row.learned is None else f"{row.learned:,}",
            row.skill,
            row.event_time[5:],
            row.note,
        )
    return table


def show(*, watch: bool, as_json: bool) -> int:
    """Print the services; return 0 when all are healthy, 1 otherwise."""
    places = read_places()
    deployment = Deployment(places, read_project(places))
    rows = rows_of(deployment)
    healthy = all(row.healthy for row in rows)
    if as_json:
        said = {
            "healthy": healthy,
            "market": market_of(deployment),
            "services": [dataclasses.asdict(row) for row in rows],
            "refused_versions": [dataclasses.asdict(refusal) for refusal in refusals_of(deployment)],
        }
        print(json.dumps(said))  # noqa: T201
        return 0 if healthy else 1
    console = Console(width=None if sys.stdout.isatty() else 130)
    if not watch:
        console.print(_screen(deployment, rows))
        return 0 if healthy else 1
    with Live(_screen(deployment, rows), console=console, refresh_per_second=4) as screen:
        try:
            while True:
                time.sleep(1.0)
                screen.update(_screen(deployment, rows_of(deployment)))
        except KeyboardInterrupt:
            return 0


def refusals_of(deployment: Deployment) -> list[Refusal]:
    """Return the versions that a service refused to load and that have not loaded since, newest first."""
    refused: list[Refusal] = []
    with _control(deployment) as control:
        refused += Refusals(control).newest(REFUSALS) if control is not None else []
    return refused


def refusal_lines(refused: list[Refusal]) -> list[str]:
    """Return a line for each refused version: which, by whom, when and why."""
    return [
        f"refused: {r.line} version {r.number} by {r.refused_by}, "
        f"{datetime.fromtimestamp(r.refused_at, UTC):%Y-%m-%d %H:%M:%S} UTC: {r.reason}"
        for r in refused
    ]


def _screen(deployment: Deployment, rows: list[Row]) -> Group:
    refused = refusal_lines(refusals_of(deployment))
    more = [f"refused: {len(refused) - SHOWN} more, see 'tidemill status --json'"] if len(refused) > SHOWN else []
    lines = [Text(line, style="red") for line in (*refused[:SHOWN], *more)]
    return Group(table_of(rows, market_of(deployment)), *lines)


def print_logs(service: str, lines: int, *, follow: bool) -> None:
    """Print the newest lines of one service's log, or of all.

    Raises
    ------
    UsageError
        When there is no such service.
    """
    places = read_places()
    deployment = Deployment(places, read_project(places))
    supervisor = deployment.supervisor
    names = [name for name in (*deployment.foundation, *SERVICES) if name in supervisor.names()]
    if service and service not in names:
        raise UsageError(f"no service '{service}' was deployed here; there are {', '.join(names) or 'none'}")
    wanted = [service] if service else names
    for name in wanted:
        for line in supervisor.tail(name, lines):
            print(f"{name:18} {line}" if len(wanted) > 1 else line)  # noqa: T201
    if follow:
        _follow({name: supervisor.log_path(name) for name in wanted})


def _follow(paths: dict[str, object]) -> None:
    import subprocess

    subprocess.run(["tail", "-n", "0", "-F", *map(str, paths.values())], check=False)  # noqa: S603, S607


def _beats(deployment: Deployment) -> dict[str, Beat]:
    """Return the newest heartbeat of each service; none where there is no control database yet."""
    newest: dict[str, Beat] = {}
    with _control(deployment) as control:
        beats = Heartbeats(control).beats() if control is not None else []
        for beat in sorted(beats, key=lambda b: b.started_at):
            newest[beat.service] = beat
    return newest


@contextlib.contextmanager
def _control(deployment: Deployment) -> Iterator[Control | None]:
    """Open the control database where there is one; what cannot be asked is not shown."""
    with contextlib.ExitStack() as stack:
        control = None
        with contextlib.suppress(TidemillError):
            if deployment.places.home.exists():
                control = stack.enter_context(Control.open(deployment.places.control))
        with contextlib.suppress(TidemillError):
            yield control


def market_of(deployment: Deployment) -> str:
    """Return what market it is, in a line."""
    market = deployment.project.market
    if market.source == "auto":
        return "market: not settled before the first 'tidemill up'"
    speed = "live" if market.live else f"{market.speed:g}x" if market.speed else "full speed"
    made_up = "SIMULATED, " if market.simulated else ""
    return f"market: {made_up}{market.source}, {speed}; {', '.join(deployment.project.instruments)}"
