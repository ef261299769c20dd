"""A consumer group: who is in it, and the rebalance that gives every member its share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from kio.schema.errors import ErrorCode

from streaming.devbroker.members import Joined, Joining, Member, common_protocols, elected
from streaming.devbroker.refusals import Refusal

MAX_SHARES_BYTES = 256 << 10
"""What the leader may hand out: the partitions of all topics take a tenth of it."""

Value = TypeVar("Value")


class State(Enum):
    """The states of a group, by the protocol's names."""

    EMPTY = "Empty"
    JOINING = "PreparingRebalance"
    SYNCING = "CompletingRebalance"
    STABLE = "Stable"


class Group:
    """A group under the classic protocol: the broker keeps the roll, the leading member divides the work.

    Every method is told the time (seconds, any origin) and returns at once; who must wait gets a future.
    """

    def __init__(self) -> None:
        self.state = State.EMPTY
        self.generation = 0
        self.protocol_type = ""
        self.protocol = ""
        self.members: dict[str, Member] = {}
        self._leader = ""
        self._announced: dict[str, float] = {}  # ids given out, not joined yet: with their deadline
        self._phase_ends = 0.0

    @property
    def idle(self) -> bool:
        """Whether nobody is in it or about to be."""
        return self.state is State.EMPTY and not self._announced

    @property
    def held(self) -> tuple[int, int]:
        """How many are in it or about to be, and the bytes they have sent about themselves."""
        return len(self.members) + len(self._announced), sum(member.size for member in self.members.values())

    def knows(self, joining: Joining) -> bool:
        """Whether who joins is here already, or was given an id."""
        return joining.member_id in self.members or joining.member_id in self._announced

    def join(self, said: Joining, now: float) -> asyncio.Future[Joined]:
        """Take a member in, or in again; the future resolves when everybody has joined.

        Raises
        ------
        Refusal
            MEMBER_ID_REQUIRED (its message is the id), UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID or
            INCONSISTENT_GROUP_PROTOCOL.
        """
        self._check_protocols(said)
        if said.member_id:
            self._check_instance(said.member_id, said.instance_id)
            member = self.members.get(said.member_id)
            if member is None:
                if self._announced.pop(said.member_id, None) is None:
                    raise Refusal(ErrorCode.unknown_member_id)
                return self._enter(said.member_id, said, now)
            return self._rejoin(member, said, now)
        new_id = f"{said.instance_id or said.client}-{uuid.uuid4()}"
        if said.instance_id is not None:
            old = self._instance(said.instance_id)
            return self._enter(new_id, said, now) if old is None else self._succeed(old, new_id, said, now)
        if said.needs_id:
            self._announced[new_id] = now + said.session_s
            raise Refusal(ErrorCode.member_id_required, new_id)
        return self._enter(new_id, said, now)

    def _check_protocols(self, said: Joining) -> None:
        others = [member.said.protocols for member in self.members.values() if member.id != said.member_id]
        if not said.protocols or not said.protocol_type:
            raise Refusal(ErrorCode.inconsistent_group_protocol)
        if others and (said.protocol_type != self.protocol_type or not common_protocols([*others, said.protocols])):
            raise Refusal(ErrorCode.inconsistent_group_protocol)

    def _instance(self, instance_id: str) -> Member | None:
        return next((member for member in self.members.values() if member.said.instance_id == instance_id), None)

    def _check_instance(self, member_id: str, instance_id: str | None) -> None:
        if instance_id is not None:
            member = self._instance(instance_id)
            if member is not None and member.id != member_id:
                raise Refusal(ErrorCode.fenced_instance_id)

    def _enter(self, member_id: str, said: Joining, now: float) -> asyncio.Future[Joined]:
        if not self.members:
            self.protocol_type = said.protocol_type
        member = self.members[member_id] = Member(member_id, said, now + said.session_s)
        return self._join_round(member, now)

    def _rejoin(self, member: Member, said: Joining, now: float) -> asyncio.Future[Joined]:
        unchanged = member.said.protocols == said.protocols
        member.said = said
        member.heard(now)
        answered_again = self.state is State.SYNCING or (self.state is State.STABLE and member.id != self._leader)
        if unchanged and answered_again:
            return _done(self._joined(member, self._leader))
        return self._join_round(member, now)

    def _succeed(self, old: Member, new_id: str, said: Joining, now: float) -> asyncio.Future[Joined]:
        """Put a restarted static member in the place of its former self, without a rebalance when nothing changed."""
        led = self._leader
        old.refuse(ErrorCode.fenced_instance_id)
        del self.members[old.id]
        member = self.members[new_id] = Member(new_id, said, now + said.session_s, assignment=old.assignment)
        if led == old.id:
            self._leader = new_id
        same = old.subscription(self.protocol) == member.subscription(self.protocol)
        if self.state is State.STABLE and same and elected(self._ballots()) == self.protocol:
            # Told the former leader's id, it does not divide the work again but syncs as a follower.
            return _done(self._joined(member, led, roll=False))
        return self._join_round(member, now)

    def _join_round(self, member: Member, now: float) -> asyncio.Future[Joined]:
        if member.joining is None or member.joining.done():
            member.joining = asyncio.get_running_loop().create_future()
        pending = member.joining
        if self.state is not State.JOINING:
            self._begin_round(now)
        self._end_round_if_complete(now)
        return pending

    def _begin_round(self, now: float) -> None:
        self.state = State.JOINING
        for member in self.members.values():
            member.refuse_sync(ErrorCode.rebalance_in_progress)
        self._phase_ends = now + max(member.said.rebalance_s for member in self.members.values())

    def _end_round_if_complete(self, now: float) -> None:
        if not self._announced and all(member.joining for member in self.members.values()):
            self._end_round(now)

    def _end_round(self, now: float) -> None:
        """Close the round: drop who has not joined again, number the generation, tell everybody."""
        for member in list(self.members.values()):
            if member.joining is None and member.said.instance_id is None:
                del self.members[member.id]
        self.generation += 1
        if not self.members:
            self.state, self.protocol, self._leader = State.EMPTY, "", ""
            return
        self.state = State.SYNCING
        self.protocol = elected(self._ballots())
        joined = [member for member in self.members.values() if member.joining]
        if joined and self._leader not in {member.id for member in joined}:
            self._leader = joined[0].id
        self._phase_ends = now + max(member.said.rebalance_s for member in self.members.values())
        for member in joined:
            member.assignment = b""
            member.heard(now)
            member.answer_join(self._joined(member, self._leader))

    def _ballots(self) -> list[tuple[tuple[str, bytes], ...]]:
        return [member.said.protocols for member in self.members.values()]

    def _joined(self, member: Member, leader: str, *, roll: bool = True) -> Joined:
        members = tuple(
            (other.id, other.said.instance_id, other.subscription(self.protocol))
            for other in self.members.values()
            if roll and member.id == leader
        )
        return Joined(self.generation, self.protocol_type, self.protocol, leader, member.id, members)

    def sync(
        self, member_id: str, instance_id: str | None, generation: int, shares: Mapping[str, bytes], now: float
    ) -> asyncio.Future[bytes]:
        """Return what resolves to the member's share, once the leader has brought the shares.

        Raises
        ------
        Refusal
            As `check`, REBALANCE_IN_PROGRESS, or INVALID_REQUEST for shares above `MAX_SHARES_BYTES`.
        """
        member = self.check(member_id, instance_id, generation)
        member.heard(now)
        if sum(map(len, shares.values())) > MAX_SHARES_BYTES:
            raise Refusal(ErrorCode.invalid_request)
        if self.state is State.JOINING:
            raise Refusal(ErrorCode.rebalance_in_progress)
        if self.state is State.STABLE:
            return _done(member.assignment)
        if member.syncing is None or member.syncing.done():
            member.syncing = asyncio.get_running_loop().create_future()
        pending = member.syncing
        if member_id == self._leader:
            self.state = State.STABLE
            for other in self.members.values():
                other.assignment = shares.get(other.id, b"")
                other.heard(now)
                other.answer_sync()
        return pending

    def check(self, member_id: str, instance_id: str | None, generation: int) -> Member:
        """Return a member of the present generation.

        Raises
        ------
        Refusal
            FENCED_INSTANCE_ID, UNKNOWN_MEMBER_ID or ILLEGAL_GENERATION.
        """
        self._check_instance(member_id, instance_id)
        member = self.members.get(member_id)
        if member is None:
            raise Refusal(ErrorCode.unknown_member_id)
        if generation != self.generation:
            raise Refusal(ErrorCode.illegal_generation)
        return member

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int, now: float) -> None:
        """Note a sign of life.

        Raises
        ------
        Refusal
            As `check`, or REBALANCE_IN_PROGRESS: the member is to join again.
        """
        self.check(member_id, instance_id, generation).heard(now)
        if self.state is State.JOINING:
            raise Refusal(ErrorCode.rebalance_in_progress)

    def check_commit(self, member_id: str, instance_id: str | None, generation: int, now: float) -> None:
        """Let a member commit offsets; who is in no group may when the group has no members either.

        Raises
        ------
        Refusal
            As `check`, or REBALANCE_IN_PROGRESS while the shares are being divided.
        """
        if generation < 0 and not self.members:
            return
        self.check(member_id, instance_id, generation).heard(now)
        if self.state is State.SYNCING:
            raise Refusal(ErrorCode.rebalance_in_progress)

    def leave(self, member_id: str, instance_id: str | None, now: float) -> None:
        """Let a member go.

        Raises
        ------
        Refusal
            UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID.
        """
        if instance_id is not None:
            member = self._instance(instance_id)
            if member is not None and member_id and member.id != member_id:
                raise Refusal(ErrorCode.fenced_instance_id)
        elif self._announced.pop(member_id, None) is not None:
            self._go_on(now)
            return
        else:
            member = self.members.get(member_id)
        if member is None:
            raise Refusal(ErrorCode.unknown_member_id)
        self._remove([member], now)

    def _remove(self, members: list[Member], now: float) -> None:
        for member in members:
            member.refuse(ErrorCode.unknown_member_id)
            del self.members[member.id]
        if self.members and self.state in {State.STABLE, State.SYNCING}:
            self._begin_round(now)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """End the round, when it waited only for who is gone now."""
        if not self.members and self.state is not State.EMPTY:
            self._end_round(now)
        elif self.state is State.JOINING:
            self._end_round_if_complete(now)

    def tick(self, now: float) -> None:
        """Remove who has been silent for too long, and end what has taken too long."""
        late = [name for name, deadline in self._announced.items() if deadline < now]
        for name in late:
            del self._announced[name]
        silent = [member for member in self.members.values() if not member.waits and member.deadline < now]
        if self.state is State.SYNCING and self._phase_ends < now:  # the leader never brought the shares
            silent = [member for member in self.members.values() if member.syncing is None]
        if silent:
            self._remove(silent, now)
        elif late:
            self._go_on(now)
        if self.state is State.JOINING and self._phase_ends < now:
            self._end_round(now)


def _done(value: Value) -> asyncio.Future[Value]:
    future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future
