"""Looks: how the services are at this moment, from the supervisor's files and the control database alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from domain.config import Places, Project
from domain.health import Beat
from domain.services import SERVICES
from orchestration.deployment import Deployment
from orchestration.tending import Look
from warehouse.control import Control
from warehouse.engines import Pace
from warehouse.heartbeats import Heartbeats
from warehouse.registry import Registry
from warehouse.roles import Roles


@contextmanager
def control_of(places: Places) -> Iterator[Control | None]:
    """Open the control database for a look, if there is one: a look creates nothing, and does not wait.

    Raises
    ------
    Unavailable
        When it is out of reach, or locked for more than 250 ms.
    BadState
        When it is damaged, or of another release.
    """
    if not places.control_url and not (places.home / "control.sqlite").exists():
        yield None
        return
    with Control.of(places, Pace.BRISK) as control:
        yield control


def lines_without_version(control: Control | None, places: Places, project: Project) -> list[str]:
    """Return the instruments that have no model; all of them while there is no control database."""
    if control is None:
        return list(project.instruments)
    registry = Registry(control, places.models)
    return [name for name in project.instruments if registry.newest(name) is None]


def challenged(control: Control, project: Project) -> bool:
    """Return whether any line has a challenger, for which a service must run."""
    return any(cast.challenger for cast in Roles(control).all(project.instruments).values())


def look_at(deployment: Deployment, control: Control | None) -> dict[str, Look]:
    """Return how every service is."""
    beats: dict[str, Beat] = {}
    for beat in Heartbeats(control).beats() if control is not None else []:
        if beat.service not in beats or beat.beat_at > beats[beat.service].beat_at:
            beats[beat.service] = beat
    looks = {}
    for name in SERVICES:
        status, spec = deployment.supervisor.status(name), deployment.supervisor.spec(name)
        looks[name] = Look(status, spec["meta"] if spec else {}, beats.get(name))
    return looks
