"""Dagster's daemon with a pulse: ``python -m orchestration.daemon``, started by ``tidemill up``.

It is Dagster's own program. A thread next to it shows the pulse while the daemon's threads sign their heartbeats and,
as long as any sensor is on, sensors tick; then a daemon that hangs is ended by its shim, with its code servers.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points

import dagster as dg

from domain.errors import TidemillError
from domain.stores import STORES
from orchestration.instance import lend_url
from orchestration.pulse import BEAT_S, pulse
from orchestration.settings import read_places
from orchestration.wholeness import refuse_losses

LOOK_S = 10.0
"""Seconds between two looks at what the daemon signed."""

HEARTBEATS_S, TICKS_S = 300.0, 600.0
"""Seconds without news of a thread, and without a tick of any sensor, after which the daemon hangs.

Threads sign every 30 s and sensors tick every 5 s. A look at a code server that does not answer takes 60 s, and a busy
machine takes a minute to start one.
"""

TICKS = "ticks"


@dataclass
class Signs:
    """What a daemon signed, and when news of it was last seen.

    Time is this process's own: a wall clock that jumps is news, not silence.
    """

    values: dict[str, float] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)

    def note(self, found: Mapping[str, float] | None, now: float) -> None:
        """Note what was found; None where it cannot be known, which is not silence.

        Parameters
        ----------
        found
            Name of a sign -> its time on the wall clock; one that is missing is not waited for.
        now : float
            Seconds, monotonic.
        """
        if found is None:
            self.at = dict.fromkeys(self.at, now)
            return
        changed = {name for name, value in found.items() if self.values.get(name) != value}
        self.at = {name: now if name in changed else self.at[name] for name in found}
        self.values = dict(found)

    def well(self, now: float) -> bool:
        """Tell whether news of every sign is fresh enough."""
        return all(now - at < (TICKS_S if name == TICKS else HEARTBEATS_S) for name, at in self.at.items())


def signs_of(instance: dg.DagsterInstance) -> dict[str, float]:
    """Return the newest heartbeat of each daemon that should run and, where a sensor is on, the newest tick."""
    beats = instance.get_daemon_heartbeats()
    found = {name: beats[name].timestamp if name in beats else 0.0 for name in instance.get_required_daemon_types()}
    states = instance.all_instigator_state()
    on = [state for state in states if state.is_running and state.instigator_type.value == "SENSOR"]
    ticks = [getattr(state.instigator_data, "last_tick_timestamp", None) or 0.0 for state in on]
    return found | ({TICKS: max(ticks)} if ticks else {})


def _look(signs: Signs) -> None:
    """Note for as long as the process lives what the daemon signed."""
    instance = None
    while True:
        try:
            instance = instance or dg.DagsterInstance.get()
            found = signs_of(instance)
        except Exception:  # noqa: BLE001 - whatever its storage raises: a restart would not mend it
            found = None
        signs.note(found, time.monotonic())
        time.sleep(LOOK_S)


def _beat(signs: Signs) -> None:
    show = pulse()
    while True:
        if signs.well(time.monotonic()):
            show()
        time.sleep(BEAT_S)


def main() -> None:
    """Run the daemon until SIGTERM or SIGINT, unless its home has lost a store."""
    try:
        places = read_places()
        lend_url(places)
        refuse_losses(places, tuple(store for store in STORES if store != "topics"))
    except TidemillError as error:
        sys.exit(f"tidemill: {error}")
    (program,) = entry_points(group="console_scripts", name="dagster-daemon")
    signs = Signs()
    for work in (_look, _beat):
        threading.Thread(target=work, args=(signs,), name=f"pulse{work.__name__}", daemon=True).start()
    sys.argv = [program.name, "run", "-m", "orchestration.definitions"]
    program.load()()


if __name__ == "__main__":
    main()
