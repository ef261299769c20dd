"""Progress of long work: a bar on a terminal, a log line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import structlog
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LOG_S = 10.0


class Progress:
    """Shows what is being done and how much of it."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Bar | None = None
        self._log = structlog.get_logger()
        self._logged = 0.0
        self._words, self._share = title, 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, words: str) -> None:
        """Tell what is being done."""
        if words != self._words and self._bar is not None:
            self._bar.update(self._task, description=words)
        self._words = words
        self._maybe_log()

    def share(self, done: float) -> None:
        """Tell how much of it is done, 0 to 1."""
        self._share = min(1.0, max(0.0, done))
        if self._bar is not None:
            self._bar.update(self._task, completed=self._share)
        self._maybe_log()

    def _maybe_log(self) -> None:
        now = time.monotonic()
        if self._bar is None and now - self._logged >= LOG_S:
            self._logged = now
            self._log.info(self._words, done=f"{self._share:.0%}")
