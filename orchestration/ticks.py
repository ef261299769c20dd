"""Ticks: each sensor notes in the home that it ticked and what it sees turned off, for who asks without Dagster."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from domain.config import Places

if TYPE_CHECKING:
    import dagster as dg  # seconds of imports, which a look at the notes must not cost

SENSORS = ("bootstrap", "health", "versions")

SILENT_S = 60.0
"""Seconds without a tick after which a sensor is silent: Dagster asks every 5 s, on a busy machine less often."""

TURN_ON = "turn it on in Dagster (Automation) or run 'tidemill up --sensors-on'"


def note(places: Places, sensor: str, instance: dg.DagsterInstance) -> None:
    """Note that a sensor ticks now, and which sensors and schedules a person has stopped.

    A home that is not there, or a disk that is full, costs the note only.
    """
    if not places.home.exists():
        return
    stopped = [
        f"{state.instigator_type.value.lower()} {state.name}"
        for state in (instance.all_instigator_state() if instance.schedule_storage is not None else ())
        if state.status.value == "STOPPED"
    ]
    path = _directory(places) / f"{sensor}.json"
    new = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        new.write_text(json.dumps({"at": time.time(), "stopped": sorted(stopped)}), "utf-8")
        new.replace(path)


def forget(places: Places) -> None:
    """Forget all ticks: what is turned on now is not to look stopped until the next one."""
    shutil.rmtree(_directory(places), ignore_errors=True)


def faults_of(places: Places, started: float, now: float) -> list[str]:
    """Return what is wrong with sensors and schedules, a line each with what to do.

    Parameters
    ----------
    started : when Dagster's daemon was started, unix seconds
    now : unix seconds
    """
    notes = {name: _read(_directory(places) / f"{name}.json") for name in SENSORS}
    _, stopped = max(notes.values(), key=lambda note: note[0])  # the newest knows best
    found = [f"{name} is stopped: {TURN_ON}" for name in stopped]
    ages = {
        name: min(abs(now - at), abs(now - started))
        for name, (at, _) in notes.items()
        if f"sensor {name}" not in stopped
    }
    silent = [name for name, age in ages.items() if age > SILENT_S]
    if silent and len(silent) == len(ages):
        words = f"no sensor has ticked for {min(ages.values()):.0f} s"
        return [*found, f"{words}: see 'tidemill logs dagster-daemon'; where all are off, 'tidemill up --sensors-on'"]
    return found + [f"sensor {name} has not ticked for {ages[name]:.0f} s: {TURN_ON}" for name in silent]


def _directory(places: Places) -> Path:
    return places.home.absolute() / "ticks"


def _read(path: Path) -> tuple[float, list[str]]:
    """Return when a sensor ticked last, unix seconds, and what was stopped; 0 where that cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return float(found["at"]), [str(name) for name in found["stopped"]]
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, []
