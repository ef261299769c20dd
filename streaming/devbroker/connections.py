"""All connections: how many there may be, what they may hold together, and which is dropped when it is too much."""

from __future__ import annotations

from typing import Protocol

from streaming.devbroker.complaints import Complaints
from streaming.devbroker.limits import Limits


class Client(Protocol):
    """One connection, as far as all of them share limits; see `connection.Connection`."""

    received: int
    unsent: int
    deadline: float
    awaited: str

    def drop(self, reason: str) -> None:
        """End it at once, and say why."""

    def end(self) -> None:
        """End it at once."""


class Connections:
    """The clients of one broker.

    Parameters
    ----------
    limits
        What they may take.
    complaints
        Where a connection that is refused is noted.
    """

    def __init__(self, limits: Limits, complaints: Complaints) -> None:
        self.limits = limits
        self.complaints = complaints
        self._all: set[Client] = set()
        self._unproven: dict[Client, None] = {}  # never sent a request, the oldest first
        self._received = self._unsent = 0

    def __len__(self) -> int:
        return len(self._all)

    def admitted(self, connection: Client) -> bool:
        """Take a connection in, in the place of the oldest silent one when there are too many; tell whether it was."""
        self._all.add(connection)
        self._unproven[connection] = None
        if len(self._all) > self.limits.connections:
            next(iter(self._unproven)).drop(f"{self.limits.connections} connections are the most")
        return connection in self._all

    def proven(self, connection: Client) -> None:
        """Note that a connection has sent a request: it is a client."""
        self._unproven.pop(connection, None)

    def forget(self, connection: Client) -> None:
        """Note that a connection has ended."""
        self._all.discard(connection)
        self._unproven.pop(connection, None)

    def held(self, received: int, unsent: int) -> None:
        """Add to what is held together (bytes), and drop connections until it is little enough."""
        self._received += received
        self._unsent += unsent
        while received > 0 and self._received > self.limits.received_bytes and self._all:
            largest = max(self._all, key=lambda one: one.received)
            largest.drop(f"{self._received} bytes of unanswered requests in all, {largest.received} of them here")
        while unsent > 0 and self._unsent > self.limits.unsent_bytes and self._all:
            slowest = min((one for one in self._all if one.unsent), key=lambda one: one.deadline)
            slowest.drop(f"{self._unsent} bytes of unread answers in all, {slowest.unsent} of them here")

    def sweep(self, now: float) -> None:
        """Drop the connections whose time is up (seconds of the event loop)."""
        late = [connection for connection in self._all if connection.deadline < now]
        for connection in late:
            connection.drop(f"waited {self.limits.patience_s:g} s for {connection.awaited}")

    def close(self) -> None:
        """End every connection."""
        for connection in list(self._all):
            connection.end()
