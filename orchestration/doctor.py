"""Doctor: looks at everything Tidemill needs, says what is wrong, and what to do about it."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from domain.config import Places, Project
from domain.errors import TidemillError, Unavailable
from orchestration.deployment import Deployment
from orchestration.opening import ANSWERS_WITHIN_S, wrong_clock
from orchestration.rehearsal import attempts
from orchestration.settings import read_places, read_project
from orchestration.status import rows_of
from orchestration.wholeness import losses

ROOM = 2_000_000_000
"""Bytes below which a day of market data and models may not fit."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is well, and what there is to know or to do."""

    what: str
    well: bool
    words: str


def examine() -> int:
    """Print all findings; return 0 when everything is well, 1 otherwise."""
    findings = list(_findings())
    table = Table("", "what", "finding", box=None)
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.well else "[red]no[/]", finding.what, finding.words)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0 if all(finding.well for finding in findings) else 1


def _findings() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]}; 3.11 or newer is needed")
    try:
        places = read_places()
        yield Finding("environment", well=True, words=f"home {places.home.absolute()}")
    except TidemillError as error:
        yield Finding("environment", well=False, words=str(error))
        return
    try:
        project = read_project(places)
        yield Finding("configuration", well=True, words=f"{places.config}: {', '.join(project.instruments)}")
    except TidemillError as error:
        yield Finding("configuration", well=False, words=str(error))
        return
    for what, attempt in attempts(places, project).items():
        yield _tried(what, attempt)
    yield _tried("market", lambda: _market(project, places))
    yield _disk(places)
    yield from _ports(places, Deployment(places, project))
    yield from _stores(places)
    yield _tried("lake extensions", _extensions)
    yield _tried("control database", lambda: _control(places))
    yield _tried("Dagster's storage", lambda: _storage(places))
    yield _tried("broker", lambda: _broker(places, Deployment(places, project)))
    yield from _services(places, Deployment(places, project))


def _stores(places: Places) -> Iterator[Finding]:
    try:
        lost = losses(places)
    except TidemillError as error:
        yield Finding("home", well=False, words=str(error))
        return
    for loss in lost:
        yield Finding(loss.store, well=False, words=loss.line)
    if not lost:
        yield Finding("home", well=True, words="its stores are there, and its own")


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, well=True, words=look())
    except TidemillError as error:
        return Finding(what, well=False, words=str(error))


def _market(project: Project, places: Places) -> str:
    from markets.catalog import source_of

    source = source_of(project, places)
    found = f"{project.market.source} {source.kind} of {', '.join(source.instruments)}"
    return found if not project.market.live else f"{found}; {_exchange(project, places)}"


def _exchange(project: Project, places: Places) -> str:
    from markets.catalog import exchange_of

    name = project.market.source
    if wrong := wrong_clock(name, exchange_of(project, places, ANSWERS_WITHIN_S).now()):
        raise Unavailable(wrong)
    return f"{name} answers and trades them, and its clock is this machine's"


def _disk(places: Places) -> Finding:
    at = next(p for p in (places.home.absolute(), *places.home.absolute().parents) if p.exists())
    free = shutil.disk_usage(at).free
    return Finding("disk", free >= ROOM, f"{free / 1e9:.1f} GB free at {at}; {ROOM / 1e9:.0f} GB are wanted")


def _ports(places: Places, deployment: Deployment) -> Iterator[Finding]:
    ports = {"broker": places.broker_port, "dagster-webserver": places.dagster_port, "predictor": places.serving_port}
    if "exchange" in deployment.foundation:
        ports["exchange"] = places.exchange_port
    for name, port in ports.items():
        ours = deployment.supervisor.status(name).phase in {"running", "frozen"}
        at = places.dagster_at if name == "dagster-webserver" else "127.0.0.1"
        with socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken = probe.connect_ex((at, port)) == 0
        words = "our own is running" if ours else ("taken by another program" if taken else "free")
        yield Finding(f"port {port}", ours or not taken, f"{name}: {words}")


def _extensions() -> str:
    import tempfile

    from warehouse.lake import Lake

    with tempfile.TemporaryDirectory() as home, Lake.open(Places(home=Path(home))) as lake:
        return f"a lake can be made and read, snapshot {lake.snapshot()}"


def _control(places: Places) -> str:
    from warehouse.control import Control
    from warehouse.stores import demand

    demand(places, "control")
    if not places.control_url and not (places.home / "control.sqlite").exists():
        return "none yet; 'tidemill up' makes one"
    Control.of(places).close()
    return "answers"


def _storage(places: Places) -> str:
    from warehouse.stores import demand

    demand(places, "dagster")
    if not places.dagster_url:
        directory = places.home.absolute() / "dagster"
        if (directory / "dagster.yaml").exists():
            _opened(directory)
        return f"SQLite below {directory}"
    from warehouse.engines import probe

    return f"{probe(places.dagster_url, 'TIDEMILL_DAGSTER_URL')} answers"


def _opened(directory: Path) -> None:
    from dagster import DagsterInstance

    try:
        with DagsterInstance.from_config(str(directory)):
            pass
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise Unavailable(
            f"{directory} cannot be opened ({said}); 'tidemill down', remove it, 'tidemill up': it holds the history "
            "of runs and plots, nothing that is served"
        ) from error


def _broker(places: Places, deployment: Deployment) -> str:
    from streaming.topics import probe

    if not places.kafka_bootstrap_servers:
        phase = deployment.supervisor.status("broker").phase
        if phase in {"absent", "stopped"}:
            return "the dev broker is not running; 'tidemill up' starts it"
        if phase != "running":
            raise Unavailable(f"the dev broker is {phase}; its shim starts it again, see 'tidemill logs broker'")
    return probe(places)


def _services(places: Places, deployment: Deployment) -> Iterator[Finding]:
    """Judge what is deployed as ``status`` does; what was stopped on purpose is no fault."""
    rows = [row for row in rows_of(places, deployment.foundation, ask=True) if row.name != "broker"]
    deployed = [row for row in rows if row.phase not in {"not deployed", "stopped", "elsewhere"}]
    unwell = [row for row in deployed if not row.healthy]
    for row in unwell:
        yield Finding(row.name, well=False, words=f"{row.phase}: {row.note}" if row.note else row.phase)
    if not unwell:
        words = f"all {len(deployed)} are well" if deployed else "none runs; 'tidemill up' starts them"
        yield Finding("services", well=True, words=words)
