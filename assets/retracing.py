"""Retracing: a line led from a kept version along the lake once more, to prove a version, or without what was bad.

The lake has the rows that streamed in, bit for bit and for longer than the topics, so a line that follows them between
two watermarks becomes what it became in the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from assets.training import Windows, follow, learn, left_out, publish
from domain.checkpoint import PROBES, Checkpoint
from domain.config import Project
from domain.errors import ArtifactRefused, BadState, UsageError
from domain.lines import instrument_of
from domain.tables import Floats
from domain.tape import Tape, merge
from warehouse.control import Control
from warehouse.features import read_table
from warehouse.files import settle, stage
from warehouse.lake import Lake
from warehouse.maintenance import pin
from warehouse.registry import Registry
from warehouse.versions import Version

Report = Callable[[float], None]


@dataclass(frozen=True)
class Rebuilt:
    """A version that was made once more.

    Attributes
    ----------
    parent : the kept version that it was made from, None when from history alone
    digest : of its state; the version's own when nothing is wrong
    n_learned : examples learned on the way
    payload : its file, byte for byte the published one when the same libraries made it
    """

    version: Version
    parent: Version | None
    digest: str
    n_learned: int
    payload: bytes

    @property
    def same_state(self) -> bool:
        """Whether it has learned what the version says it has."""
        return self.digest == self.version.digest

    @property
    def same_file(self) -> bool:
        """Whether the file is the published one."""
        return hashlib.sha256(self.payload).hexdigest() == self.version.sha256


@dataclass(frozen=True)
class Retracing:
    """Leads lines along the lake.

    Attributes
    ----------
    lake : open for writing: what is made names a pinned snapshot
    registry : with its key
    project : its fleet is used where a line is trained from the beginning
    progress : told the share done, 0 to 1
    """

    lake: Lake
    control: Control
    registry: Registry
    project: Project
    progress: Report = lambda _share: None

    def rebuild(self, version: Version) -> Rebuilt:
        """Make a version once more, from the nearest kept version before it that loads.

        Raises
        ------
        UsageError
            When none before it is kept.
        ArtifactRefused
            When none of those loads.
        BadState
            When the lake does not hold what the version learned.
        """
        if version.kind == "initial":
            base, parent, before = self._trained(version, version.line, (), version.snapshot), None, 0
            probes = base.probes
        else:
            base, parent = self._before(version)
            before = base.line.n_learned
            probes = self._follow(base, version.watermark)
        line = base.line
        if line.n_learned != version.n_learned:
            raise BadState(
                f"{version.line} version {version.number} learned {version.n_learned:,} examples, the lake has "
                f"{line.n_learned:,} of them; backfill what is missing"
            )
        made = replace(
            base, offsets=dict(version.offsets), logs=dict(version.logs), kind=version.kind, parent=version.parent,
            snapshot=version.snapshot, probes=probes,
        )  # fmt: skip
        return Rebuilt(version, parent, line.digest(), line.n_learned - before, self.registry.seal(made))

    def restore(self, rebuilt: Rebuilt) -> bool:
        """Put a rebuilt version's file in place where it is missing or damaged; return whether that was done."""
        version = rebuilt.version
        try:
            self.registry.load(version)
        except ArtifactRefused:
            if not rebuilt.same_file:
                return False
            settle(stage(version.path, rebuilt.payload), version.path)
            self.registry.refusals.lift(version.line, version.number)
            return True
        return False

    def unlearn(self, old: str, new: str, window: tuple[int, int], until: int) -> Version:
        """Publish what a line would be had it learned nothing of a window, as the first version of a new line.

        Parameters
        ----------
        old, new : names of the lines
        window : ``(from, until]``, ns; see ``training.left_out``
        until : how far the lake can be followed, ns

        Raises
        ------
        UsageError
            When the window is empty or lies in the future.
        """
        if not window[0] < min(window[1], until):
            raise UsageError("the window holds nothing that was learned; let it begin before now and end later")
        snapshot = pin(self.lake, self.control, f"unlearned/{new}")
        parent = self.registry.before_time(old, window[0])
        if parent is None:  # it lies in the training window: from the beginning, then
            newest = self.registry.newest(old)
            if newest is None:
                raise UsageError(f"{old} has no version; train one first")
            base = self._trained(newest, new, (window,), snapshot)
        else:
            parent, base = self._good(parent)
            base = replace(base, without=(*base.without, window))
        base.line.name = new
        probes = self._follow(base, until)
        made = replace(
            base, offsets={}, logs={}, kind="unlearned", snapshot=snapshot, probes=probes,
            parent=None if parent is None else parent.number,
        )  # fmt: skip
        return publish(self.control, self.registry, made, base.line.scores())

    def _trained(self, like: Version, line: str, without: Windows, snapshot: int | None) -> Checkpoint:
        """Train a line over the training window of a version's line."""
        project, start = self.project, like.begins
        made, vectors = learn(self.lake, project, line, start, like.since, snapshot, self.progress, without)
        made.freeze()
        return Checkpoint(
            made, project.interval, project.horizon, probes=vectors[-PROBES:], begins=start, without=without
        )

    def _follow(self, base: Checkpoint, until: int) -> Floats:
        """Lead the checkpoint's line on, and return its newest questions, float64[p, 16]: the probes of what it is."""
        tape = tape_between(self.lake, base.line.name, base.line.watermark, until, base.without)
        follow(base.line, tape, until, self.progress)
        return np.concatenate([base.probes, tape.x[tape.asks]])[-PROBES:]

    def _before(self, version: Version) -> tuple[Checkpoint, Version | None]:
        """Return what a version grew from; from history alone where it is a line's first one and names no parent."""
        registry, without = self.registry, tuple((start, end) for start, end in version.without)
        if version.parent is None and version.kind == "unlearned":
            return self._trained(version, version.line, without, version.snapshot), None
        parent = None if version.parent is None else registry.find(instrument_of(version.line), version.parent)
        parent = parent or registry.before(version)
        if parent is None:
            raise UsageError(f"{version.line} version {version.number}: none before it is kept, it cannot be rebuilt")
        good, base = self._good(parent)
        base.line.name = version.line
        return replace(base, without=without), good

    def _good(self, first: Version) -> tuple[Version, Checkpoint]:
        """Return the newest version of its line, from this one back, that loads."""
        version: Version | None = first
        while version is not None:
            try:
                return version, self.registry.open(version)
            except ArtifactRefused:
                version = self.registry.before(version)
        raise ArtifactRefused(f"{first.line}: no version up to {first.number} loads; retrain the line")


def tape_between(lake: Lake, line: str, start: int, until: int, without: Windows = ()) -> Tape:
    """Return what a line follows from one watermark to another, ns: vectors asked and examples answered since."""
    instrument, snapshot = instrument_of(line), lake.snapshot()
    vectors = read_table(lake, "features", instrument, start, until, snapshot=snapshot)
    examples = read_table(lake, "examples", instrument, start, until, snapshot=snapshot)
    return merge(*left_out(vectors, examples, without))
