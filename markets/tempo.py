"""How quickly a live feed acts: everything that it waits for, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tempo:
    """How quickly a feed acts, seconds.

    Attributes
    ----------
    grace_s : for a missing trade to arrive late, before REST is asked
    settle_s : for a new subscription to take effect, before REST is asked what came meanwhile
    audit_s : without a trade of an instrument, after which REST is asked whether there is truly none
    audit_each_s : an audit's share of the time, so that many instruments never use up what the venue allows
    quiet_s : without a trade of an instrument, after which the exchange is asked whether it trades it at all, and how
        often it is asked again
    retry_s, retry_most_s : bounds of the first and of any wait before REST is asked again
    patience_s : of REST being behind the stream, after which an instrument counts as waiting
    backoff_s, backoff_most_s : bounds of the first and of any wait before a connection is tried again
    overlap_s : that a connection is still read beside the one that replaces it
    """

    grace_s: float = 0.1
    settle_s: float = 1.0
    audit_s: float = 30.0
    audit_each_s: float = 2.0
    quiet_s: float = 300.0
    retry_s: float = 0.25
    retry_most_s: float = 10.0
    patience_s: float = 10.0
    backoff_s: float = 1.0
    backoff_most_s: float = 30.0
    overlap_s: float = 3.0
