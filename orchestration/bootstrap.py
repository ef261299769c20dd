"""The composition root: builds each service from configuration; every dependency is an argument."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from domain.config import Places, Project
from domain.errors import UsageError
from domain.topics import BARS, TRADES
from orchestration.deployment import STREAMS, SUPERVISED, Deployment
from orchestration.settings import read_places, read_project
from streaming.app import Context, Stage, run
from warehouse.control import Control

SERVICES = ("broker", *STREAMS)


def context_of(places: Places, project: Project) -> Context:
    """Return what every stage is given."""
    places.home.mkdir(parents=True, exist_ok=True)
    generation = int(os.environ.get("TIDEMILL_GENERATION", "0"))
    from streaming.kafka import Kafka

    return Context(project, places, Control.open(places.control), Kafka(places), generation=generation)


def stage_of(name: str, context: Context) -> Stage:
    """Return a service, unopened; imports only what it needs."""
    build: dict[str, Callable[[Context], Stage]] = {
        "ingest": _ingest,
        "featurizer": _featurizer,
        "trainer": _trainer,
        "predictor": _predictor,
        "lander": _lander,
    }
    if name not in build:
        raise UsageError(f"there is no service '{name}'; choose one of {', '.join(SERVICES)}")
    return build[name](context)


def run_service(name: str) -> None:
    """Run one service in this process until it ends or is asked to stop."""
    places = read_places()
    project = read_project(places.config)
    _refuse_second(name, Deployment(places, project))
    if name == "broker":
        _broker(places, project)
        return
    context = context_of(places, project)
    _ = context.registry  # reads the key: what is wrong with it is said now, not after waiting for a broker
    stage = stage_of(name, context)
    from streaming.topics import create_topics

    create_topics(places, project.instruments)
    run(stage, context)


def _ingest(context: Context) -> Stage:
    from markets.catalog import source_of
    from streaming.ingest import Ingest

    return Ingest(context, source_of(context.project))


def _featurizer(context: Context) -> Stage:
    from markets.catalog import source_of
    from streaming.featurizer import Featurizer

    return Featurizer(context, TRADES if source_of(context.project).kind == "trades" else BARS)


def _trainer(context: Context) -> Stage:
    from streaming.trainer import Trainer

    return Trainer(context)


def _predictor(context: Context) -> Stage:
    from streaming.predictor import Predictor
    from streaming.serving import Board, Server

    project = context.project
    board = Board(project.instruments, simulated=project.market.source == "simulated")
    return Predictor(context, board, Server(board, context.places.serving_port, context.control))


def _lander(context: Context) -> Stage:
    from streaming.lander import Lander

    return Lander(context)


def _refuse_second(name: str, deployment: Deployment) -> None:
    """Refuse to run beside the supervised service of the same name: two of a kind would do everything twice."""
    if os.environ.get(SUPERVISED) or deployment.supervisor.spec(name) is None:
        return
    status = deployment.supervisor.status(name)
    if status.phase in {"running", "backoff", "starting", "restarting"}:
        raise UsageError(f"{name} already runs here (pid {status.pid}); 'tidemill down' stops it")


def _broker(places: Places, project: Project) -> None:
    from domain.health import Beat
    from streaming.devbroker.server import serve
    from warehouse.heartbeats import Heartbeats

    if places.kafka_bootstrap_servers:
        raise UsageError("TIDEMILL_KAFKA_BOOTSTRAP_SERVERS names a broker; unset it to run the dev broker")
    context = context_of(places, project)
    beats, started = Heartbeats(context.control), time.time()

    def tick(figures: dict[str, object]) -> None:
        now = time.time()
        beats.beat(
            Beat(
                service="broker",
                instance=context.instance,
                pid=os.getpid(),
                phase="running",
                generation=context.generation,
                position={},
                progress=0,
                progressed_at=now,
                lag=0,
                ready=True,
                beat_at=now,
                started_at=started,
                detail=figures,
            )
        )

    serve(places.home / "broker", "127.0.0.1", places.broker_port, "never", on_tick=tick)
