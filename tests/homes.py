"""Homes that hold something of everything: a trained line, a lake, topics and Dagster's storage; made once, copied."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

import sqlalchemy as sa
from confluent_kafka import Producer

from assets.backfill import write_bars, write_examples, write_features
from assets.partitions import history_of
from assets.resources import Mill
from assets.training import train_initial
from domain.config import Places
from orchestration.instance import prepare_instance
from streaming.identity import found_topics
from tests.brokers import broker_process, fill
from tests.mills import TOML, mill_at
from warehouse.beginning import begin
from warehouse.identity import path_of
from warehouse.keys import model_key
from warehouse.marks import FILE
from warehouse.registry import Registry
from warehouse.stores import data_of
from warehouse.versions import Version

ONE_DAY = TOML.replace("history_days = 2", "history_days = 1").replace(', "simulated:ETH-USD"', "")


def make_home(home: Path) -> Places:
    """Make a home as ``tidemill up`` and an hour of work leave it, with no process left."""
    mill = mill_at(home, ONE_DAY)
    places, (name,) = mill.places, mill.project.instruments
    begin(places)
    prepare_instance(home)
    begin(places)
    history = history_of(mill.project)
    window = (name, history.start, history.until, "run")
    with mill.lake() as lake:
        write_bars(lake, mill.source(), mill.project, *window)
        write_features(lake, mill.project, *window)
        write_examples(lake, mill.project, *window)
    train(mill)
    with broker_process(home / "broker") as broker:
        reached = places.model_copy(update={"kafka_bootstrap_servers": broker.address})
        found_topics(reached, mill.project.instruments)
        fill(Producer({"bootstrap.servers": broker.address}), "features", ["{}"])
    return places


def without_identity(home: Path) -> None:
    """Make of a home one of a release that knew no identity."""
    for path in (path_of(home), data_of(home / "lake") / FILE, home / "models" / FILE):
        path.unlink()
    for database in ("control.sqlite", "lake/catalog.sqlite", "dagster/history/runs.db"):
        engine = sa.create_engine(f"sqlite:///{home / database}")
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE tidemill_identity")
        engine.dispose()


def another(home: Path, to: Path) -> None:
    """Make another home of the same contents: its stores carry other ids, and so do its key and its broker."""
    copy_of(home, to)
    without_identity(to)
    key = to / "model.key"
    key.write_text(f"{secrets.token_hex(32)}\n")
    catalog = to / "broker" / "catalog.json"
    catalog.write_text(json.dumps({**json.loads(catalog.read_text()), "cluster_id": "another"}))
    begin(Places(home=to))


def train(mill: Mill) -> Version:
    """Train the first model of a home's one line from all history; return its version."""
    (name,), history = mill.project.instruments, history_of(mill.project)
    with mill.lake() as lake, mill.control() as control:
        registry = Registry(control, mill.places.models, model_key(mill.places))
        return train_initial(lake, control, registry, mill.project, name, history.start, history.until).version


def copy_of(home: Path, to: Path) -> Path:
    """Return a copy of a home: the same home, at another place."""
    return shutil.copytree(home, to, ignore=shutil.ignore_patterns("*.lock", "lock"))


def lose(path: Path, instead: Path | bytes | None) -> None:
    """Delete a file or a directory, or put another or these bytes in its place."""
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()  # SQLite's log: a database is lost with it
    mode = path.stat().st_mode
    if path.is_dir():
        shutil.rmtree(path)
        if isinstance(instead, Path):
            shutil.copytree(instead, path)
        elif instead is not None:
            path.mkdir()
        return
    path.unlink()
    if instead is not None:
        path.write_bytes(instead.read_bytes() if isinstance(instead, Path) else instead)
        path.chmod(mode)
