"""Log lines about clients that are refused: each reason is named, and a flood of refusals is not a flood of lines."""

from __future__ import annotations

import time

import structlog

logger = structlog.get_logger(__name__)

LINES, WINDOW_S = 20, 10.0
"""So many lines in so many seconds; the next line after that tells how many were left out."""


class Complaints:
    """The refusals of one broker, on their way to the log."""

    def __init__(self) -> None:
        self._window = 0.0
        self._written = self._left_out = 0

    def note(self, event: str, *, failure: bool = False, **fields: object) -> None:
        """Log a refusal, unless there were too many just now.

        Parameters
        ----------
        failure
            The broker's own: logged with the traceback of the exception being handled.
        """
        now = time.monotonic()
        if now - self._window >= WINDOW_S:
            self._window, self._written = now, 0
        if self._written >= LINES:
            self._left_out += 1
            return
        self._written += 1
        if self._left_out:
            fields["left_out_before"], self._left_out = self._left_out, 0
        (logger.exception if failure else logger.warning)(event, **fields)
