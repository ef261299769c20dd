"""Where a log joins what was followed before: rows beyond a hole wait to be made again, they are not followed over it.

A topic that was deleted takes along what its readers had not read. The featurizer sees it and makes that again, but
what it sent in between lies first in the new log, and to follow it would leave out what comes again behind it.
"""

from __future__ import annotations

import numpy as np
import structlog

from domain.bars import MAX_FILL
from domain.tables import Ints


class Joint:
    """Leaves out rows until one is the very next, or an older one; from there on a log has no hole.

    Parameters
    ----------
    newest : time of the newest row that was followed, ns
    interval : from one row to the next, ns
    open_ended : whatever lies between is gone for good, or nothing was followed yet: any row will do
    """

    def __init__(self, where: str, newest: int, interval: int, *, open_ended: bool) -> None:
        self._where, self._next, self._joined = where, newest + interval, open_ended
        self._interval = interval
        self._said = False

    def skip(self, when: Ints) -> int:
        """Return how many of these rows, the next of the log, are to be left out."""
        if self._joined or not len(when):
            return 0
        # What lies further ahead is a market that has resumed, and no gap that anybody fills.
        near = np.flatnonzero((when <= self._next) | (when > self._next + MAX_FILL * self._interval))
        if len(near):
            self._joined = True
            return int(near[0])
        if not self._said:
            self._said = True
            structlog.get_logger().error(
                "waiting for rows to be made again", where=self._where, expected=self._next, found=int(when[0])
            )
        return len(when)
