"""The policy of a service: how it is restarted, given up, watched, ended and logged."""

from __future__ import annotations

import dataclasses

from orchestration.vitals import FROZEN_S


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a service is kept.

    Attributes
    ----------
    base_s, max_s : back-off before the n-th restart in a row, ``min(max_s, base_s * 2 ** (n - 1))`` seconds
    stable_s : after a life this long the next crash counts as the first
    max_fails : more crashes in a row than this are a crash loop: given up until ``start`` or ``restart``; with 0 a
        crash is left to whoever tends the service
    grace_s : from SIGTERM to SIGKILL
    zero_is_done : exit code 0 means finished; otherwise it is a crash like any other
    frozen_s : a process that is stopped (as by SIGSTOP) for so long is killed, which is a crash like any other; so is
        one among its descendants, alone; 0 for never
    pulse_s : a process that does not touch the file in its environment's ``TIDEMILL_PULSE`` for so long is killed,
        likewise; 0 for a service without a pulse. It has two minutes to its first
    keep : the shims of the services next to it give it another shim when its own was killed
    log_bytes, log_files : the log is rotated at this size, this many files are kept
    """

    base_s: float = 0.2
    max_s: float = 60.0
    stable_s: float = 30.0
    max_fails: int = 8
    grace_s: float = 10.0
    zero_is_done: bool = True
    frozen_s: float = FROZEN_S
    pulse_s: float = 0.0
    keep: bool = False
    log_bytes: int = 5_000_000
    log_files: int = 3


STANDARD = Policy()
