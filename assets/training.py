"""Training from the lake: the first model of a line, and the oracle that a streamed line must equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from domain.checkpoint import PROBES, Checkpoint
from domain.config import Project
from domain.fleet import Line
from domain.lines import instrument_of
from domain.tables import ExampleTable, VectorTable
from domain.tape import Tape, merge
from warehouse.control import Control
from warehouse.features import training_rows
from warehouse.lake import Lake
from warehouse.leases import Leases
from warehouse.maintenance import pin
from warehouse.registry import Registry
from warehouse.versions import Version, VersionInfo

STRIDE = 10_000
"""Steps between two reports of progress."""

Scores = dict[str, dict[str, dict[str, float]]]
Windows = tuple[tuple[int, int], ...]


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
    name: str,
    start: int,
    until: int,
    progress: Callable[[float], None] = lambda _share: None,
) -> Trained:
    """Train a line on everything that could be known at ``until``, and publish it as its first version.

    Parameters
    ----------
    name : of the line
    start, until : int
        The training window ``(start, until]``, ns; ``until`` becomes the line's watermark.
    progress
        Called with the share done, 0 to 1.

    Notes
    -----
    Without any example in the window the line starts cold, and learns all it knows from the stream.

    A line that has a version keeps it: publishing another first version would throw away what was learned since.
    """
    snapshot = pin(lake, control, f"initial/{name}")
    line, vectors = learn(lake, project, name, start, until, snapshot, progress)
    scores = line.scores()
    line.freeze()
    newest = registry.newest(name)
    if newest is not None:
        return Trained(newest, published=False, scores=scores)
    checkpoint = Checkpoint(
        line,
        project.interval,
        project.horizon,
        kind="initial",
        snapshot=snapshot,
        probes=vectors[-PROBES:],
        begins=start,
    )
    return Trained(publish(control, registry, checkpoint, scores), published=True, scores=scores)


def publish(control: Control, registry: Registry, checkpoint: Checkpoint, scores: Scores) -> Version:
    """Publish a version that was trained from the lake, under a lease of its line that is given back at once."""
    line, leases = checkpoint.line, Leases(control)
    info = VersionInfo.of(checkpoint, scores)
    lease = leases.acquire(line.name, "training", 60.0)
    try:
        return registry.publish(line.name, registry.seal(checkpoint), info, lease)
    finally:
        leases.release(lease)


def learn(
    lake: Lake,
    project: Project,
    name: str,
    start: int,
    until: int,
    snapshot: int | None = None,
    progress: Callable[[float], None] = lambda _share: None,
    without: Windows = (),
) -> tuple[Line, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return a new line that followed the lake's tape of ``(start, until]``, and the window's vectors.

    Parameters
    ----------
    without : windows of which nothing is asked or learned, see :func:`left_out`
    """
    rows = training_rows(lake, instrument_of(name), start, until, snapshot)
    vectors, examples = left_out(rows.vectors, rows.examples, without)
    line = Line(name, project.fleet)
    follow(line, merge(vectors, examples), until, progress)
    return line, vectors.values


def left_out(vectors: VectorTable, examples: ExampleTable, without: Windows) -> tuple[VectorTable, ExampleTable]:
    """Return the rows that have no part in these windows.

    Parameters
    ----------
    without : ``((from, until), ...)``, ns
        Left out are vectors asked in ``(from, until]``, and examples asked before its end and answered after its
        beginning: their targets, or their features, are of the window.
    """
    asked, answered = np.ones(len(vectors), bool), np.ones(len(examples), bool)
    for start, end in without:
        asked &= (vectors.ts <= start) | (vectors.ts > end)
        answered &= (examples.available <= start) | (examples.ts > end)
    return (
        VectorTable(vectors.ts[asked], vectors.values[asked]),
        ExampleTable(*(column[answered] for column in vars(examples).values())),
    )


def follow(line: Line, tape: Tape, until: int, progress: Callable[[float], None] = lambda _share: None) -> None:
    """Let a line follow a whole tape, reporting the share done."""
    for at in range(0, len(tape), STRIDE):
        piece = slice(at, at + STRIDE)
        line.advance(Tape(tape.asks[piece], tape.ts[piece], tape.x[piece], tape.y[piece]), until)
        progress(min(1.0, (at + STRIDE) / len(tape)))
    line.watermark = until
