"""A version as its row: what a trainer says of it, and what its publication adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain.lines import Kind

if TYPE_CHECKING:
    from domain.checkpoint import Checkpoint  # sensors read rows only, and must not wait for learners to be imported


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """What a trainer says of a version.

    Attributes
    ----------
    kind : how it came about
    parent : number of the version it grew from
    watermark : availability time of the newest example learned, ns
    n_learned : examples learned in all
    snapshot : of the lake it was trained from
    offsets : topic/partition -> next offset to learn from
    begins, since : where its line's training window began and ended, ns
    logs : topic -> identity of the log that its offsets belong to
    without : ``((from, until), ...)``, ns: windows of which nothing was learned
    champions : target -> the model of its fleet that serves it
    digest : of the model's state
    metrics : for people and plots; what is not finite is stored as null
    """

    kind: Kind
    watermark: int
    n_learned: int
    digest: str
    parent: int | None = None
    snapshot: int | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)
    begins: int = 0
    since: int = 0
    logs: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[Sequence[int]] = ()
    champions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, metrics: Mapping[str, Any] | None = None) -> VersionInfo:
        """Return what a checkpoint says of itself; its scores are the metrics where none are given."""
        line = checkpoint.line
        return cls(
            kind=checkpoint.kind,
            parent=checkpoint.parent,
            watermark=line.watermark,
            n_learned=line.n_learned,
            digest=line.digest(),
            snapshot=checkpoint.snapshot,
            offsets=checkpoint.offsets,
            logs=checkpoint.logs,
            begins=checkpoint.begins,
            since=line.since,
            without=checkpoint.without,
            champions=line.champions,
            metrics=line.scores() if metrics is None else metrics,
        )


@dataclass(frozen=True, kw_only=True)
class Version(VersionInfo):
    """A published version.

    Attributes
    ----------
    id : grows with each publication on any line, in commit order: a cursor
    number : grows with each publication on any line of the instrument
    created_at : unix seconds, the database's clock
    sha256, size : of the artifact, bytes
    path : of the artifact
    """

    id: int
    line: str
    number: int
    created_at: float
    sha256: str
    size: int
    path: Path
