"""What holds of the whole system at any time, as sentences, and the error that says which does not."""

from __future__ import annotations

MATURED = "no label is used before it has matured"
EXACT = "a record on a topic is the undisturbed run's"
WHOLE = "nothing is skipped on a topic"
ONCE = "each trade is on its topic once"
EPOCH = "exactly one publisher an epoch, and the newest epoch's"
FORWARD = "what is published never goes back"
LEARNED = "each matured label is learned once"
DIGEST = "a version's digest is the undisturbed model's at its watermark"
LOADS = "a published version loads"
SERVED = "a refused version never serves"
ANSWER = "a vector has one answer, of the version it names and of its own vector"
FINITE = "nothing non-finite leaves"
ROWS = "a row rests in the lake once, and none is missing before it"
OFFSETS = "the lake's offsets fit its rows"
DRAINED = "without faults everything drains"


class Violation(AssertionError):  # noqa: N818 - it names what was violated
    """An invariant does not hold.

    Attributes
    ----------
    invariant : one of the sentences of this module
    """

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
