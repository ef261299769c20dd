"""What a replay will do: its own places, the project that fits the data, and where the stream begins."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from domain.config import Places, Project, Publish
from domain.errors import UsageError
from domain.events import nanos_at
from domain.fields import parse_duration
from domain.market import Market
from markets.recorded import Recorded
from markets.recordings import files
from orchestration.privacy import keep_private
from orchestration.settings import first_fault, read_places, read_project


@dataclass(frozen=True)
class Planned:
    """What a replay will do.

    Attributes
    ----------
    places, project : of the replay alone, in a home of its own
    source : the recorded data
    starts, until : dict of str to int, int
        Where each instrument's history begins, and where the stream does, ns.
    """

    places: Places
    project: Project
    source: Recorded
    starts: dict[str, int]
    until: int


@contextlib.contextmanager
def plan(
    data: list[Path], train_until: str, bar: str, horizon: str, instruments: list[str], home: Path | None
) -> Iterator[Planned]:
    """Make a plan from what a person asked for; its temporary home goes with it.

    Raises
    ------
    UsageError
        When the data, a duration, a date or an instrument is unfit, each in one line.
    """
    data = [file for path in data for file in (files(path, "trades") if path.is_dir() else [path])]
    if not data:
        raise UsageError("replay: no file is named; write --data candles.parquet, or the folder of a recorded session")
    source = Recorded(data, instruments=instruments or None)
    for finding in source.findings:
        if finding.severity == "warning":
            structlog.get_logger().warning("data", finding=str(finding))
    template = read_project(read_places())
    try:
        interval = parse_duration(bar) if bar else source.interval or template.interval
        ahead = parse_duration(horizon) if horizon else template.horizon
        project = Project(
            instruments=source.instruments,
            interval=interval,
            lateness=template.lateness,
            horizon=ahead,
            market=Market(source="recorded", path=tuple(str(path.absolute()) for path in data), speed=0),
            publish=Publish(examples=template.publish.examples, every_s=0),
            fleet=template.fleet,
        )
    except ValidationError as error:
        raise UsageError(f"replay: {first_fault(error)}") from error
    except ValueError as error:
        raise UsageError(f"replay: {error}") from error
    if source.interval not in {None, interval}:
        raise UsageError(f"--bar {bar}: the candles last {(source.interval or 0) / 1e9:g} s, and so must the bars")
    spans = {name: source.span(name) for name in source.instruments}
    first, last = min(s for s, _ in spans.values()), max(e for _, e in spans.values())
    until = _moment(train_until) if train_until else (first + last) // 2
    until -= until % interval
    if not first < until < last:
        raise UsageError(f"--train-until {_utc(until)} is not inside the data, {_utc(first)} to {_utc(last)}")
    # A bar's time is its end: history starts one interval before the first bar's, on the grid.
    starts = {name: s - s % interval - interval for name, (s, _) in spans.items()}
    root = Path(tempfile.mkdtemp(prefix="tidemill-replay-")) if home is None else home
    if home is not None and home.exists() and any(home.iterdir()):
        raise UsageError(f"--home {home} is not empty; name a new directory")
    try:
        keep_private(root)
        places = Places(
            home=root, config=root / "tidemill.toml", broker_port=_free_port(), serving_port=_free_port(), **_broker()
        )
        places.config.write_text(as_toml(project), "utf-8")
        yield Planned(places, project, source, starts, until)
    finally:
        if home is None:
            shutil.rmtree(root, ignore_errors=True)


def _broker() -> dict[str, Any]:
    """Return how to reach the broker that the environment names, with a prefix that no other replay has, or nothing."""
    here = read_places()
    if not here.kafka_bootstrap_servers:
        return {}
    prefix = f"{here.kafka_topic_prefix}replay-{uuid.uuid4().hex[:12]}."
    named = here.model_dump(include={"kafka_bootstrap_servers", "kafka"})
    return {**named, "kafka_topic_prefix": prefix}


def as_toml(project: Project) -> str:
    """Return a project as the text of a ``tidemill.toml``."""
    lines = [f"instruments = {_toml(list(project.instruments))}"]
    lines += [f"{name} = {getattr(project, name)}" for name in ("interval", "lateness", "horizon")]
    market = project.market
    lines += ["[market]", f"source = {_toml(market.source)}", f"speed = {market.speed}", f"seed = {market.seed}"]
    if market.path:
        lines.append(f"path = {_toml(list(market.path))}")
    lines += [f"opens = {market.opens.isoformat()}", f"history_days = {market.history_days}"]
    lines += ["[publish]", f"examples = {project.publish.examples}", f"every_s = {project.publish.every_s}"]
    for model in project.fleet:
        lines += ["[[fleet]]", f"name = {_toml(model.name)}", f"kind = {_toml(model.kind)}"]
        lines += [f"targets = {_toml(list(model.targets))}"]
        lines += [f"forgetting = {model.forgetting!r}", f"clip = {model.clip!r}"]
        if model.estimator:
            lines.append(f"estimator = {_toml(model.estimator)}")
    return "\n".join(lines) + "\n"


def _toml(value: str | list[str]) -> str:
    """Return text, or several, as TOML: its basic strings are JSON's, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _moment(text: str) -> int:
    try:
        return nanos_at(datetime.fromisoformat(text))
    except ValueError as error:
        raise UsageError(f"--train-until {text!r} is not a date; write 2019-03-01 or 2019-03-01T12:00:00") from error


def _utc(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
