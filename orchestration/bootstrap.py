"""The composition root: builds each service from configuration; every dependency is an argument."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from domain.config import Places, Project
from domain.errors import UsageError
from domain.topics import BARS, TRADES
from orchestration.pulse import pulse
from orchestration.wholeness import IN_SERVICES, refuse_losses
from streaming.app import Context, Stage, run
from warehouse.beginning import begin
from warehouse.control import Control


def context_of(places: Places, project: Project) -> Context:
    """Return what every stage is given, with nothing opened yet."""
    places.home.mkdir(parents=True, exist_ok=True)
    generation = int(os.environ.get("TIDEMILL_GENERATION", "0"))
    from streaming.kafka import Kafka

    return Context(project, places, Control(places.control), Kafka(places), generation=generation)


def stage_of(name: str, context: Context) -> Stage:
    """Return a service, unopened; imports only what it needs.

    Raises
    ------
    UsageError
        When there is no such service.
    """
    build: dict[str, Callable[[Context], Stage]] = {
        "ingest": _ingest,
        "featurizer": _featurizer,
        "trainer": _trainer,
        "challenger": _challenger,
        "predictor": _predictor,
        "lander": _lander,
    }
    if name not in build:
        raise UsageError(f"there is no service '{name}'; choose one of {', '.join(_STANDING)}, {', '.join(build)}")
    return build[name](context)


def run_service(name: str, places: Places, project: Project) -> None:
    """Run one service in this process until it ends or is asked to stop."""
    begin(places)
    refuse_losses(places, IN_SERVICES)
    context = context_of(places, project)
    context.control.prepare()
    if name in _STANDING:
        _STANDING[name](context)
        return
    stage = _built(name, context)
    from streaming.identity import found_topics

    found_topics(places, project.instruments)
    run(stage, context)


def rehearse_service(name: str, places: Places, project: Project) -> None:
    """Do all that a start does before anything is opened: imports, configuration, key, stage.

    What a service in its place must not be replaced with fails here. A rehearsal takes no lock, port or lease, and
    writes nothing where a service has run before.
    """
    context = context_of(places, project)
    import streaming.topics  # noqa: F401 - as a start does

    if name not in _STANDING:
        _built(name, context)


def _built(name: str, context: Context) -> Stage:
    _ = context.registry  # reads the key: what is wrong with it is said now, not after waiting for a broker
    return stage_of(name, context)


def _ingest(context: Context) -> Stage:
    from markets.catalog import source_of
    from streaming.ingest import Ingest

    project = context.project
    return Ingest(context, source_of(project, context.places, record=project.market.record))


def _featurizer(context: Context) -> Stage:
    from markets.catalog import source_of
    from streaming.featurizer import Featurizer

    return Featurizer(context, TRADES if source_of(context.project, context.places).kind == "trades" else BARS)


def _trainer(context: Context) -> Stage:
    from streaming.trainer import Trainer

    return Trainer(context)


def _challenger(context: Context) -> Stage:
    from streaming.trainer import Trainer

    return Trainer(context, "challenger")


def _predictor(context: Context) -> Stage:
    from streaming.predictor import Predictor
    from streaming.serving import Board, Server

    project = context.project
    board = Board(project.instruments, simulated=project.market.simulated)
    return Predictor(context, board, Server(board, context.places.serving_port, context.control))


def _lander(context: Context) -> Stage:
    from streaming.lander import Lander

    return Lander(context)


def _broker(context: Context) -> None:
    from domain.health import Beat
    from streaming.devbroker.server import serve
    from warehouse.heartbeats import Heartbeats

    places = context.places
    if places.kafka_bootstrap_servers:
        raise UsageError("TIDEMILL_KAFKA_BOOTSTRAP_SERVERS names a broker; unset it to run the dev broker")
    beats, started, show_pulse = Heartbeats(context.control), time.time(), pulse()

    def tick(figures: dict[str, object]) -> None:
        show_pulse()
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


def _exchange(context: Context) -> None:
    from orchestration.exchange import serve_project

    serve_project(context.places, context.project)


_STANDING: dict[str, Callable[[Context], None]] = {"broker": _broker, "exchange": _exchange}
"""What the services stand on; each runs until it is asked to stop."""
