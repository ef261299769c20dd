"""Up and down: broker and Dagster are started here; everything else is Dagster's doing, and everything ends here."""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console, Group
from rich.live import Live

from domain.config import Places
from domain.errors import BadState, UsageError
from domain.services import SERVICES
from domain.stores import Store
from orchestration import ticks
from orchestration.deployment import DAGSTER, Deployment, supervisor_of
from orchestration.opening import settled_project
from orchestration.privacy import keep_private
from orchestration.rehearsal import rehearse
from orchestration.renewal import begin_again
from orchestration.settings import read_places, read_project
from orchestration.startup import Part, startup, still_part
from orchestration.startup import table_of as parts_table
from orchestration.status import Row, market_of, rows_of, table_of
from orchestration.wholeness import refuse_losses
from warehouse.beginning import begin

POLL_S = 0.5


def up(wait_s: float, again: Sequence[Store] = (), *, sensors_on: bool = False) -> None:
    """Start broker and Dagster, and wait until the first prediction of a trained model is served.

    Parameters
    ----------
    wait_s : seconds for which nothing may move on the way to it, one interval of the market more for the prediction
        itself; 0 returns at once
    again : stores that are lost, or not wanted any more, and begin again
    sensors_on : whether sensors and schedules that a person stopped in Dagster are turned on

    Raises
    ------
    UsageError
        When a setting is wrong, or a port is taken by somebody else: then nothing is made.
    Unavailable
        When a PostgreSQL is out of reach.
    BadState
        When a store of the home is lost, something gives up, or nothing moves for so long.
    KeyboardInterrupt
        When a person gives up; what this call has started is stopped then.
    """
    from orchestration.instance import prepare_instance, turn_on

    places = read_places()
    configured = read_project(places)
    rehearse(places, configured)
    _refuse_taken_ports(places, Deployment(places, configured))  # before the home's market is settled
    deployment = Deployment(places, settled_project(places))
    _refuse_taken_ports(places, deployment)
    keep_private(places.home)
    begin_again(places, again)
    begin(places)
    refuse_losses(places)
    directory = prepare_instance(places.home, places.dagster_url)
    if sensors_on:
        print(f"turned on: {', '.join(turn_on(directory, places.dagster_url)) or 'nothing was stopped'}")  # noqa: T201
        ticks.forget(places)
    begin(places)  # Dagster's storage, where it is new
    began = time.monotonic()
    fresh = all(deployment.supervisor.status(name).pid is None for name in deployment.foundation)
    try:
        with _interruptible() as interrupted:
            _start(deployment, directory, wait_s, began, interrupted)
    except KeyboardInterrupt:
        if fresh:
            down()
        raise


def _start(deployment: Deployment, directory: Path, wait_s: float, began: float, interrupted: threading.Event) -> None:
    places = deployment.places
    for name in deployment.foundation:
        deployment.start(name)
    where = f"Dagster {places.dagster_pages}   predictions http://127.0.0.1:{places.serving_port}/predictions"
    print(f"started; {where}", flush=True)  # noqa: T201 - the command's answer
    if wait_s:
        served = _wait(deployment, directory, wait_s, interrupted)
        print(f"first prediction after {time.monotonic() - began:.0f} s: {_words(served[0])}")  # noqa: T201
        print(market_of(deployment.project))  # noqa: T201
        print(f"look: {where}\nthen: tidemill status --watch   tidemill logs   tidemill down")  # noqa: T201


def down() -> None:
    """Stop every service of this home, whatever its configuration says; Dagster first: it then deploys nothing more."""
    supervisor = supervisor_of(read_places())
    supervisor.let_go()
    names = sorted(status.name for status in supervisor.stop_all(first=DAGSTER, last=("exchange", "broker")))
    print(f"stopped: {', '.join(names) or 'nothing was running'}")  # noqa: T201


def _refuse_taken_ports(places: Places, deployment: Deployment) -> None:
    ours = {
        "broker": (places.broker_port, "TIDEMILL_BROKER_PORT"),
        "exchange": (places.exchange_port, "TIDEMILL_EXCHANGE_PORT"),
        "dagster-webserver": (places.dagster_port, "TIDEMILL_DAGSTER_PORT"),
        "predictor": (places.serving_port, "TIDEMILL_SERVING_PORT"),
    }
    taken = []
    for name, (port, variable) in ours.items():
        if deployment.supervisor.status(name).pid is not None:
            continue
        if name not in {*deployment.foundation, *SERVICES}:
            continue
        host = places.dagster_host if name == "dagster-webserver" else "127.0.0.1"
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UsageError(
                        f"TIDEMILL_DAGSTER_HOST: {host} is not an address of this machine; write one of its own, or "
                        "0.0.0.0 for all"
                    ) from error
                taken.append(f"port {port} ({name}) is taken by another program or another home; set {variable}")
    if taken:
        raise UsageError("; ".join(taken))


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield what Ctrl-C sets, besides raising: an exception that falls into a destructor or an import is lost."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, former)


def _wait(
    deployment: Deployment, directory: Path, patience_s: float, interrupted: threading.Event
) -> list[dict[str, Any]]:
    """Return the first predictions served, showing meanwhile how far the start has come."""
    with startup(deployment.places, deployment.project, deployment, directory) as start, _shown() as show:
        while True:
            if interrupted.is_set():
                raise KeyboardInterrupt
            rows = rows_of(deployment.places, deployment.foundation)
            parts = start.look(rows)
            show(parts, rows)
            if served := _served(deployment, rows):
                return served
            if start.stands_still(patience_s):
                part = still_part(parts)
                raise BadState(
                    f"nothing has moved for {start.still_s:.0f} s: {part.name} stands still"
                    f"{f' ({part.line})' if part.line else ''}; look at {deployment.places.dagster_pages}/runs and "
                    "'tidemill logs'. All that was started goes on; 'tidemill down' stops it"
                )
            time.sleep(POLL_S)


@contextmanager
def _shown() -> Iterator[Callable[[list[Part], list[Row]], None]]:
    """Yield what shows a start: a table that is drawn again on a terminal, a line for each change elsewhere."""
    if sys.stderr.isatty():
        with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
            yield lambda parts, rows: live.update(Group(parts_table(parts), table_of(rows)))
        return
    log = structlog.get_logger()
    seen: dict[str, Part] = {}

    def tell(parts: list[Part], _rows: list[Row]) -> None:
        for part in parts:
            if seen.get(part.name) != part:
                seen[part.name] = part
                log.info(part.name, state=part.state, **({"what": part.line} if part.line else {}))

    yield tell


def _words(p: dict[str, Any]) -> str:
    """Return a served prediction for people."""
    return (
        f"{p['instrument']}, the next {p['horizon_s']} s: log volatility {p['volatility']:.2f}, price change "
        f"{p['price_change']:+.2f} basis points, up with {p['direction']:.0%}; by version {p['model_version']}, which "
        f"has learned {p['n_learned']:,} examples"
    )


def _served(deployment: Deployment, rows: list[Row]) -> list[dict[str, Any]]:
    for row in rows:
        if row.name in deployment.foundation and row.phase in {"failed", "crash_loop"}:
            tail = " | ".join(deployment.supervisor.tail(row.name, 3))
            raise BadState(f"{row.name} gave up: {row.note}; its log ends: {tail}")
        if row.name in deployment.foundation and row.phase == "stopped":
            raise BadState(f"{row.name} was stopped meanwhile, as by 'tidemill down'; 'tidemill up' starts it again")
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{deployment.places.serving_port}/predictions", timeout=1
        ) as reply:
            served = json.load(reply)
            if served:
                return list(served)
    except (urllib.error.URLError, OSError, ValueError):
        pass
    return []
