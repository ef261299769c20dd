"""Training from the lake: the first model of a line, and the oracle that a streamed line must equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from domain.checkpoint import PROBES, Checkpoint
from domain.config import Project
from domain.fleet import Line
from domain.tape import Tape, merge
from warehouse.control import Control
from warehouse.features import training_rows
from warehouse.lake import Lake
from warehouse.leases import Leases
from warehouse.maintenance import pin
from warehouse.registry import Registry, Version, VersionInfo

STRIDE = 10_000
"""Steps between two reports of progress."""

Scores = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Trained:
    """What an initial training made.

    Attributes
    ----------
    version : the line's first version, or its newest when it was trained before
    published : False when the line had a version already and nothing was published
    scores : progressive losses over the training window itself, by target and member
    """

    version: Version
    published: bool
    scores: Scores


def train_initial(
    lake: Lake,
    control: Control,
    registry: Registry,
    project: Project,
    instrument: str,
    start: int,
    until: int,
    progress: Callable[[float], None] = lambda _share: None,
) -> Trained:
    """Train a line on everything that could be known at ``until``, and publish it as its first version.

    Parameters
    ----------
    start, until : int
        The training window ``(start, until]``, ns; ``until`` becomes the line's watermark.
    progress
        Called with the share done, 0 to 1.

    Notes
    -----
    Without any example in the window the line starts cold, and learns all it knows from the stream.

    A line that has a version keeps it: publishing another first version would throw away what was learned since.
    """
    snapshot = pin(lake, control, f"initial/{instrument}")
    line, vectors = learn(lake, project, instrument, start, until, snapshot, progress)
    scores = line.scores()
    line.freeze()
    newest = registry.newest(instrument)
    if newest is not None:
        return Trained(newest, published=False, scores=scores)
    leases = Leases(control)
    lease = leases.acquire(instrument, "initial training", 60.0)
    checkpoint = Checkpoint(
        line, project.interval, project.horizon, kind="initial", snapshot=snapshot, probes=vectors[-PROBES:]
    )
    info = VersionInfo(
        kind="initial",
        watermark=line.watermark,
        n_learned=line.n_learned,
        digest=line.digest(),
        snapshot=snapshot,
        metrics=scores,
    )
    version = registry.publish(instrument, registry.seal(checkpoint), info, lease)
    leases.release(lease)
    return Trained(version, published=True, scores=scores)


def learn(
    lake: Lake,
    project: Project,
    instrument: str,
    start: int,
    until: int,
    snapshot: int | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> tuple[Line, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return a new line that followed the lake's tape of ``(start, until]``, and the window's vectors."""
    rows = training_rows(lake, instrument, start, until, snapshot)
    line = Line(instrument, project.fleet)
    follow(line, merge(rows.vectors, rows.examples), until, progress)
    return line, rows.vectors.values


def follow(line: Line, tape: Tape, until: int, progress: Callable[[float], None] = lambda _share: None) -> None:
    """Let a line follow a whole tape, reporting the share done."""
    for at in range(0, len(tape), STRIDE):
        piece = slice(at, at + STRIDE)
        line.advance(Tape(tape.asks[piece], tape.ts[piece], tape.x[piece], tape.y[piece]), until)
        progress(min(1.0, (at + STRIDE) / len(tape)))
    line.watermark = until
