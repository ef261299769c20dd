"""The dev broker's logs from outside: which files belong to a moment, and how far the logs in a copy go."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from domain.errors import BadState
from domain.topics import ALL
from streaming.devbroker.segment import Segment


def keep_logs(data: Path, keep: Callable[[Path], bool]) -> None:
    """Keep the files of a running broker as they are now.

    Parameters
    ----------
    keep : keeps a file at its present size, and returns whether it is still there

    Notes
    -----
    Segments are only appended to, so the first bytes of one are what it held. Topics that are made of others are
    kept before these: what was answered or computed is there together with what it was made from.
    """
    if not keep(data / "catalog.json"):
        return
    keep(data / "offsets.log")
    order = {topic: place for place, topic in enumerate(ALL)}
    for _, folder in sorted(_folders(data), key=lambda found: -order.get(found[0].rpartition(".")[2], len(order))):
        for path in sorted(folder.glob("*/*.log")):
            keep(path)


def ends_of(data: Path) -> dict[str, tuple[int, str]]:
    """Return the next offset of each topic/partition of a broker that does not run, and the identity of its log.

    Every batch is checked; a torn tail is cut off, as a start of the broker does.

    Raises
    ------
    BadState
        When the catalog cannot be read.
    """
    ends: dict[str, tuple[int, str]] = {}
    cluster = _catalog(data)["cluster_id"]
    for name, folder in _folders(data):
        # As the Kafka client writes a topic's id.
        identity = base64.b64encode(uuid.UUID(hex=folder.name.rpartition(".")[2]).bytes).decode().rstrip("=")
        for partition in sorted(folder.iterdir()):
            end = 0
            for base in sorted(int(path.stem) for path in partition.glob("*.log")):
                segment = Segment(partition, base)
                segment.recover(lambda _header: None)
                end = segment.next_offset
            ends[f"{name}/{partition.name}"] = (end, f"{cluster}/{identity}")
    return ends


def _folders(data: Path) -> list[tuple[str, Path]]:
    found = []
    for topic in _catalog(data)["topics"]:
        folder = data / "topics" / f"{topic['name'][:200]}.{uuid.UUID(topic['id']).hex}"
        if folder.is_dir():
            found.append((str(topic["name"]), folder))
    return found


def _catalog(data: Path) -> dict[str, Any]:
    path = data / "catalog.json"
    try:
        catalog: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadState(f"{path} cannot be read ({error}); restore it from a backup") from error
    return catalog
