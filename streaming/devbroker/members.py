"""The members of a consumer group: what each of them told the broker, and what it waits for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kio.schema.errors import ErrorCode

from streaming.devbroker.refusals import Refusal

Protocols = tuple[tuple[str, bytes], ...]
"""Assignment strategies a member can follow, the preferred one first, with its subscription for each."""


_ENTRY_BYTES = 64


@dataclass(frozen=True)
class Joining:
    """What a JoinGroup request says.

    Attributes
    ----------
    member_id : empty for who is new
    instance_id : of a static member, whose place survives its restart
    session_s, rebalance_s : seconds without a heartbeat after which it is gone; seconds it may take to join again
    needs_id : whether this client joins in two steps, the first giving it its id
    """

    member_id: str
    instance_id: str | None
    client: str
    host: str
    session_s: float
    rebalance_s: float
    protocol_type: str
    protocols: Protocols
    needs_id: bool


@dataclass(frozen=True)
class Joined:
    """What a member learns when everybody has joined; the leader gets everybody's subscription."""

    generation: int
    protocol_type: str
    protocol: str
    leader: str
    member_id: str
    members: tuple[tuple[str, str | None, bytes], ...]


@dataclass
class Member:
    """One member.

    Attributes
    ----------
    deadline : time by which it must have been heard of again
    joining, syncing : what answers its pending request, when it has one
    """

    id: str
    said: Joining
    deadline: float
    assignment: bytes = b""
    joining: asyncio.Future[Joined] | None = field(default=None, repr=False)
    syncing: asyncio.Future[bytes] | None = field(default=None, repr=False)

    @property
    def waits(self) -> bool:
        """Whether it has a request pending: then the broker owes it an answer, not it a heartbeat."""
        return any(pending is not None and not pending.done() for pending in (self.joining, self.syncing))

    @property
    def size(self) -> int:
        """Bytes it has sent about itself, and what keeping them apart takes."""
        words = (self.id, self.said.instance_id or "", self.said.client, self.said.protocol_type)
        return sum(map(len, words)) + sum(len(name) + len(about) + _ENTRY_BYTES for name, about in self.said.protocols)

    def subscription(self, protocol: str) -> bytes:
        """Return what it subscribed to, in the words of a protocol."""
        return dict(self.said.protocols).get(protocol, b"")

    def heard(self, now: float) -> None:
        """Note a sign of life."""
        self.deadline = now + self.said.session_s

    def answer_join(self, joined: Joined) -> None:
        """Answer its pending JoinGroup."""
        pending, self.joining = self.joining, None
        if pending and not pending.done():
            pending.set_result(joined)

    def answer_sync(self) -> None:
        """Answer its pending SyncGroup with its assignment."""
        pending, self.syncing = self.syncing, None
        if pending and not pending.done():
            pending.set_result(self.assignment)

    def refuse_sync(self, code: ErrorCode) -> None:
        """Refuse its pending SyncGroup."""
        pending, self.syncing = self.syncing, None
        if pending and not pending.done():
            pending.set_exception(Refusal(code))

    def refuse(self, code: ErrorCode) -> None:
        """Refuse whatever it waits for."""
        pending, self.joining = self.joining, None
        if pending and not pending.done():
            pending.set_exception(Refusal(code))
        self.refuse_sync(code)


def common_protocols(members: Iterable[Protocols]) -> set[str]:
    """Return the names of the protocols that all of them can follow."""
    offered = [{name for name, _ in protocols} for protocols in members]
    return set.intersection(*offered) if offered else set()


def elected(members: Iterable[Protocols]) -> str:
    """Return the protocol most members prefer among those that all can follow; the first in the alphabet of equals."""
    ballots = list(members)
    common = common_protocols(ballots)
    votes = Counter(next(name for name, _ in protocols if name in common) for protocols in ballots)
    return min(votes, key=lambda name: (-votes[name], name))
