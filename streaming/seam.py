"""Where a line's stream begins: where history ends, and from where on everything can be made again."""

from __future__ import annotations

from domain.checkpoint import Checkpoint, read_manifest
from domain.errors import ArtifactRefused, UsageError
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET
from warehouse.lake import Lake
from warehouse.landing import all_landed
from warehouse.registry import Registry, Version

LOOK_BACK = 1_000
"""Numbers tried below a bad version before giving up."""


def seam_of(registry: Registry, line: str) -> int:
    """Return the end of the line's training window, ns.

    Raises
    ------
    UsageError
        When the line has no version yet.
    """
    return int(read_manifest(registry.load(_newest(registry, line)))["since"])


def safe_point(registry: Registry, lake: Lake, line: str, partition: int) -> int:
    """Return the time (ns) up to which nothing of a line needs to be made again: landed in the lake, and learned.

    Where a topic was lost, or the featurizer's state, its work is taken up here: what it makes again, its readers drop,
    and nothing that one of them still lacks is left out.

    Raises
    ------
    UsageError
        When the line has no version yet.
    """
    seam, landed = seam_of(registry, line), all_landed(lake)
    marks = [landed.get((topic, partition)) for topic in (BARS, FEATURES, FEATURES_WITH_TARGET)]
    learned = newest_good(registry, line)[0].watermark
    return max(seam, min(learned, *(seam if mark is None else mark.last_ts for mark in marks)))


def newest_good(registry: Registry, line: str) -> tuple[Version, Checkpoint, list[str]]:
    """Return the newest version that loads, with what was refused on the way to it.

    Raises
    ------
    UsageError
        When the line has no version yet.
    ArtifactRefused
        When none of its last versions loads.
    """
    version = _newest(registry, line)
    refused: list[str] = []
    while True:
        try:
            return version, Checkpoint.from_bytes(registry.load(version)), refused
        except ArtifactRefused as error:
            refused.append(f"version {version.number}: {error}")
            older = _before(registry, version)
            if older is None:
                raise ArtifactRefused(
                    f"{line}: no version loads ({'; '.join(refused[:3])}); train a new one"
                ) from error
            version = older


def _newest(registry: Registry, line: str) -> Version:
    version = registry.newest(line)
    if version is None:
        raise UsageError(f"{line} has no model yet; run 'tidemill up' or materialize asset initial_model first")
    return version


def _before(registry: Registry, version: Version) -> Version | None:
    """Return the newest version older than this one; retention may have left holes in the numbers."""
    for number in range(version.number - 1, max(0, version.number - LOOK_BACK), -1):
        if (older := registry.get(version.line, number)) is not None:
            return older
    return None
