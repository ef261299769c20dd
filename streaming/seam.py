"""Where a service takes a line up: its newest version that is good, and from where on everything can be made again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from domain.checkpoint import Checkpoint
from domain.errors import ArtifactRefused, BadState, UsageError
from domain.topics import BARS, FEATURES, FEATURES_WITH_TARGET
from warehouse.registry import Registry
from warehouse.roles import Cast
from warehouse.versions import Version

if TYPE_CHECKING:
    from warehouse.lake import Lake

SAID = 10
"""Refusals logged one by one; after a lost key there may be thousands."""


def seam_of(registry: Registry, line: str) -> int:
    """Return the end of the line's training window, ns, as the newest manifest that is good says.

    Raises
    ------
    UsageError
        When the line has no version yet.
    ArtifactRefused
        When none of its versions has a good manifest.
    """
    refused: dict[int, str] = {}
    for version in _newest_first(registry, line):
        try:
            return int(registry.manifest(version)["since"])
        except ArtifactRefused as error:
            refused[version.number] = str(error)
    raise ArtifactRefused(_none_loads(line, refused))


def safe_point(registry: Registry, lake: Lake, cast: Cast, partition: int) -> int:
    """Return the time (ns) up to which nothing of an instrument needs to be made again: landed, and learned.

    Parameters
    ----------
    cast : names the lines that learn

    Where a topic was lost, or the featurizer's state, its work is taken up here: what it makes again, its readers drop,
    and nothing that one of them still lacks is left out.

    Raises
    ------
    UsageError
        When the line has no version yet.
    """
    from warehouse.landing import all_landed

    seam, landed = seam_of(registry, cast.instrument), all_landed(lake)
    marks = [landed.get((topic, partition)) for topic in (BARS, FEATURES, FEATURES_WITH_TARGET)]
    # Not by its manifest: the trainer goes on from the newest version that loads.
    learned = [newest_good(registry, cast.champion, "safe point")[0].watermark]
    if cast.challenger is not None:
        with contextlib.suppress(ArtifactRefused):  # a challenger that does not load holds nobody up
            learned.append(newest_good(registry, cast.challenger, "safe point")[0].watermark)
    return max(seam, min(*learned, *(seam if mark is None else mark.last_ts for mark in marks)))


def newest_good(registry: Registry, line: str, by: str, first: Version | None = None) -> tuple[Version, Checkpoint]:
    """Return the newest version that loads; what was refused on the way to it is logged and recorded.

    Parameters
    ----------
    by : the service that asks
    first : tried first, and then those before it; None means the line's newest

    Raises
    ------
    UsageError
        When the line has no version yet.
    ArtifactRefused
        When none of its versions loads.
    """
    refused: dict[int, str] = {}
    for version in _newest_first(registry, line, first):
        try:
            checkpoint = registry.open(version)
        except ArtifactRefused as error:
            refused[version.number] = str(error)
            continue
        _record(registry, line, refused, version, by)
        return version, checkpoint
    _record(registry, line, refused, None, by)
    raise ArtifactRefused(_none_loads(line, refused))


def _newest_first(registry: Registry, line: str, first: Version | None = None) -> Iterator[Version]:
    version = first or registry.newest(line)
    if version is None:
        raise UsageError(f"{line} has no model yet; run 'tidemill up' or materialize asset initial_model first")
    while version is not None:
        yield version
        version = registry.before(version)


def _record(registry: Registry, line: str, refused: dict[int, str], good: Version | None, by: str) -> None:
    log = structlog.get_logger().bind(service=by, line=line)
    for number, reason in list(refused.items())[:SAID]:
        log.error("version refused", version=number, reason=reason, instead=good.number if good else None)
    if len(refused) > SAID:
        log.error("versions refused, all told", count=len(refused))
    try:
        if refused:
            registry.refusals.note(line, refused, by)
        if good is not None:
            registry.refusals.lift(line, good.number)
    except BadState as error:  # a good version shall serve, even where nothing can be written down
        log.warning("refusals not recorded", error=str(error))


def _none_loads(line: str, refused: dict[int, str]) -> str:
    newest = next(iter(refused.values()))
    return f"{line}: none of {len(refused)} versions loads; the newest: {newest}"
