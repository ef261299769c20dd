"""A copied home, read back: every part verified, and nothing in it pointing at what it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from domain.config import Places
from domain.errors import BadState
from streaming.devbroker.copy import ends_of
from warehouse.inventory import Inventory, inventory_of

Ends = dict[str, tuple[int, str]]
"""By topic/partition: the next offset of its log, and the log's identity."""


def read_back(places: Places, home: Path) -> tuple[Inventory, Ends]:
    """Return what a copied home holds, and how far its logs go.

    Raises
    ------
    BadState
        When a part does not read back, or names an offset that its log does not have.
    """
    held = inventory_of(places.model_copy(update={"home": home}))
    ends: Ends = {}
    if (home / "broker" / "catalog.json").exists():
        prefix = places.kafka_topic_prefix
        ends = {key.removeprefix(prefix): end for key, end in ends_of(home / "broker").items()}
        for line, newest in held.lines.items():
            logs = {key: newest.logs.get(key.partition("/")[0], "") for key in newest.offsets}
            _demand_there(f"version {newest.number} of {line}", newest.offsets, logs, ends)
        offsets = {key: offset for key, (offset, _) in held.landed.items()}
        _demand_there("the lake", offsets, {key: log for key, (_, log) in held.landed.items()}, ends)
    return held, ends


def contents(held: Inventory) -> list[str]:
    """Return what a home holds, for people."""
    lines = [
        f"{line}: version {newest.number} is the newest, {newest.n_learned:,} examples learned"
        for line, newest in held.lines.items()
    ]
    rows = ", ".join(f"{n:,} {table}" for table, n in held.rows.items())
    damaged = [f"damaged since before, and so in the copy: {', '.join(held.damaged)}"] if held.damaged else []
    return [*lines, f"{held.versions:,} versions in all; in the lake {rows or 'nothing'}", *damaged]


def _demand_there(what: str, offsets: Mapping[str, int], logs: Mapping[str, str], ends: Ends) -> None:
    """Return when the copied logs have what was read of them; in another log of the name an offset means nothing."""
    for key, offset in offsets.items():
        end, log = ends.get(key, (0, ""))
        if log == logs[key] and offset > end:
            raise BadState(f"{what} stands at {offset} of {key}, but the copied log ends at {end}; use another copy")
