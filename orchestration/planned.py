"""What a replay will do: its own places, the project that fits the data, and where the stream begins."""

from __future__ import annotations

import contextlib
import json
import os
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
from domain.fields import duration_text, parse_duration
from domain.market import Market
from markets.recorded import Recorded
from markets.recordings import files
from orchestration.mistakes import first_fault
from orchestration.privacy import keep_private
from orchestration.rehearsal import rehearse_replay, try_home
from orchestration.settings import read_places, read_project


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
    here = read_places()
    template = read_project(here)
    interval, ahead = _duration("--bar", bar), _duration("--horizon", horizon)
    asked = _moment(train_until) if train_until else None
    _demand_new(home)
    # Not by ``is_dir``, which bears no name that is too long.
    data = [file for path in data for file in (files(path, "trades") if os.path.isdir(path) else [path])]  # noqa: PTH112
    if not data:
        raise UsageError("replay: no file is named; write --data candles.parquet, or the folder of a recorded session")
    source = Recorded(data, instruments=instruments or None)
    interval = interval or source.interval or template.interval
    try:
        project = Project(
            instruments=source.instruments,
            interval=interval,
            lateness=template.lateness,
            horizon=ahead or template.horizon,
            market=Market(source="recorded", path=tuple(str(path.absolute()) for path in data), speed=0),
            publish=Publish(examples=template.publish.examples, every_s=0),
            fleet=template.fleet,
        )
    except ValidationError as error:
        raise UsageError(f"replay: {first_fault(error)}") from error
    if source.interval not in {None, interval}:
        raise UsageError(
            f"--bar {bar}: the candles last {(source.interval or 0) / 1e9:g} s, and so must the bars; leave --bar out"
        )
    spans = {name: source.span(name) for name in source.instruments}
    first, last = min(s for s, _ in spans.values()), max(e for _, e in spans.values())
    until = (first + last) // 2 if asked is None else asked
    until -= until % interval
    if not first < until < last:
        raise UsageError(
            f"--train-until {train_until or _utc(until)} is not inside the data; write a time from {_utc(first)} to "
            f"{_utc(last)}"
        )
    rehearse_replay(here, template)
    for finding in source.findings:
        if finding.severity == "warning":
            structlog.get_logger().warning("data", finding=str(finding))
    # A bar's time is its end: history starts one interval before the first bar's, on the grid.
    starts = {name: s - s % interval - interval for name, (s, _) in spans.items()}
    root = Path(tempfile.mkdtemp(prefix="tidemill-replay-")) if home is None else home
    try:
        keep_private(root)
        broker_port, serving_port = _free_ports()
        places = Places(
            home=root,
            config=root / "tidemill.toml",
            broker_port=broker_port,
            serving_port=serving_port,
            **_broker(here),
        )
        places.config.write_text(as_toml(project), "utf-8")
        yield Planned(places, project, source, starts, until)
    finally:
        if home is None:
            shutil.rmtree(root, ignore_errors=True)


def _demand_new(home: Path | None) -> None:
    if home is None:
        return
    try_home(home, "--home")
    if home.exists() and any(home.iterdir()):
        raise UsageError(f"--home {home} is not empty; name a new directory")


def _broker(here: Places) -> dict[str, Any]:
    """Return how to reach the broker that the environment names, with a prefix that no other replay has, or nothing."""
    if not here.kafka_bootstrap_servers:
        return {}
    prefix = f"{here.kafka_topic_prefix}replay-{uuid.uuid4().hex[:12]}."
    named = here.model_dump(include={"kafka_bootstrap_servers", "kafka"})
    return {**named, "kafka_topic_prefix": prefix}


def as_toml(project: Project) -> str:
    """Return a project as the text of a ``tidemill.toml``."""
    lines = [f"instruments = {_toml(list(project.instruments))}"]
    lines += [f'{name} = "{duration_text(getattr(project, name))}"' for name in ("interval", "lateness", "horizon")]
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


def _duration(option: str, text: str) -> int | None:
    try:
        return parse_duration(text) if text else None
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _moment(text: str) -> int:
    try:
        return nanos_at(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--train-until {text[:60]!r} is not a date; write 2019-03-01 or 2019-03-01T12:00:00"
        ) from error


def _utc(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _free_ports() -> tuple[int, int]:
    """Return two ports, both held until the other is known: two looks one after the other may find the same."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
