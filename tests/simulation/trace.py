"""What happened, in order: as a digest that two runs of one seed share, and as the last lines for a person."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import MutableMapping

import structlog

from streaming.transport import Key
from tests.simulation.faults import Hands


class Trace:
    """Takes notes.

    Attributes
    ----------
    lines : the newest notes
    """

    def __init__(self, clock: Hands, hidden: str) -> None:
        self._clock, self._hidden = clock, hidden
        self._sha = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=400)
        self.words: list[str] = []
        self.steps = 0

    def note(self, *words: object) -> None:
        """Write one line; where files are is left out, for it differs between runs."""
        line = " ".join(str(word) for word in (f"{self._clock.now:.3f}", *words)).replace(self._hidden, "")
        self._sha.update(line.encode())
        self.lines.append(line)

    def records(self, key: Key, values: list[bytes]) -> None:
        """Note what arrived at the broker."""
        for value in values:
            self._sha.update(value)
        self.note("arrived", *key, len(values))

    def log(self, _logger: object, method: str, event: MutableMapping[str, object]) -> str:
        """Take the services' own log lines: a processor of structlog."""
        words = " ".join(f"{name}={value}" for name, value in sorted(event.items()))
        self.words.append(str(event.get("event")))
        self.note("log", method, words)
        raise structlog.DropEvent

    def hexdigest(self) -> str:
        """Return the digest of everything so far."""
        return self._sha.hexdigest()
