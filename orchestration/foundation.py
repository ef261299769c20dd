"""The foundation judged: broker, exchange and Dagster's web server by an answer, its daemon by the sensors' ticks.

A process that is there may hang all the same. Nothing here imports Dagster, so that ``status`` stays quick.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from domain.config import Places
from domain.errors import TidemillError
from orchestration import ticks
from orchestration.homes import Status

ANSWERS_S = 5.0
"""Seconds that each may take to answer: milliseconds on loopback, more on a machine that is busy with everything."""


def faults_of(places: Places, statuses: Mapping[str, Status]) -> dict[str, str]:
    """Return what is wrong with the parts of the foundation that run: name -> one line; nothing of those that are well.

    Parameters
    ----------
    statuses : of the parts that are ours; a broker elsewhere is asked as well
    """
    questions: dict[str, Callable[[], str]] = {
        "broker": lambda: _broker(places),
        "exchange": lambda: _http("the exchange in a box", f"http://127.0.0.1:{places.exchange_port}/"),
        "dagster-webserver": lambda: _http("Dagster's web server", f"{places.dagster_pages}/server_info"),
        "dagster-daemon": lambda: _daemon(places, statuses["dagster-daemon"]),
    }
    running = {name for name, status in statuses.items() if status.phase == "running"}
    if places.kafka_bootstrap_servers:
        running.add("broker")
    asked = [name for name in questions if name in running]
    with ThreadPoolExecutor(max_workers=len(questions)) as pool:
        answers = dict(zip(asked, pool.map(lambda name: questions[name](), asked), strict=True))
    return {name: fault for name, fault in answers.items() if fault}


def _broker(places: Places) -> str:
    from streaming.topics import probe

    try:
        probe(places, ANSWERS_S)
    except TidemillError as error:
        return f"does not answer within {ANSWERS_S:g} s ({error})"
    return ""


def _http(what: str, address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=ANSWERS_S):  # noqa: S310 - http, of ours
            return ""
    except urllib.error.HTTPError:
        return ""  # an answer all the same
    except OSError as error:
        why = getattr(error, "reason", error)
        return f"{what} does not answer at {address} ({why}); its shim ends it when that lasts, see 'tidemill logs'"


def _daemon(places: Places, status: Status) -> str:
    return "; ".join(ticks.faults_of(places, (status.started_at or 0) / 1e9, time.time()))
