"""Waiting, in a run, until the services have done what was decided, as their heartbeats say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from domain.errors import Unavailable
from domain.health import Beat
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats
from warehouse.roles import Cast

SERVING_S = 30.0
"""Until the predictor serves what was decided: it looks once a second, and may just be starting."""

FRESH_S = 5.0
"""Age of a heartbeat that still counts; there is one a second."""

_POLL_S = 0.2


def served(context: dg.OpExecutionContext, control: Control, cast: Cast, is_served: Callable[[Beat], bool]) -> None:
    """Wait until the predictor's heartbeat says that what was decided serves."""
    began = time.monotonic()
    beat = _beat(control, "predictor", SERVING_S, is_served)
    if beat is None:
        raise Unavailable(
            f"decided, but the predictor does not serve it after {SERVING_S:.0f} s; see its log, the decision stands"
        )
    took = time.monotonic() - began
    context.log.info("%s: version %s serves after %.1f s", cast.instrument, _version(beat, cast), took)
    context.add_output_metadata(
        {"serves": _version(beat, cast), "seconds_to_serving": round(took, 2), "reason": cast.reason}
    )


def caught_up(context: dg.OpExecutionContext, control: Control, cast: Cast, wait_s: float) -> None:
    """Wait until the challenger has learned all that has arrived."""
    if not wait_s:
        return
    began = time.monotonic()

    def done(beat: Beat) -> bool:
        return beat.detail["line"].get(cast.instrument) == cast.challenger and beat.lag == 0

    beat = _beat(control, "challenger", wait_s, done)
    if beat is None:
        raise Unavailable(
            f"{cast.challenger} has not caught up after {wait_s:.0f} s; see the log of service challenger"
        )
    took = time.monotonic() - began
    context.log.info("%s has caught up after %.1f s, version %s", cast.challenger, took, _version(beat, cast))
    context.add_output_metadata(
        {
            f"{cast.instrument} challenger": cast.challenger or "",
            f"{cast.instrument} seconds_to_catch_up": round(took, 2),
        }
    )


def _beat(control: Control, service: str, wait_s: float, is_right: Callable[[Beat], bool]) -> Beat | None:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        for beat in Heartbeats(control).beats():
            fresh = time.time() - beat.beat_at < FRESH_S
            with contextlib.suppress(KeyError):
                if beat.service == service and fresh and is_right(beat):
                    return beat
        time.sleep(_POLL_S)
    return None


def _version(beat: Beat, cast: Cast) -> Any:  # noqa: ANN401 - as the heartbeat says it
    return beat.detail.get("version", {}).get(cast.instrument, "?")
