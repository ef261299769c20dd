"""The life of a consumer group, told by a clock the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from streaming.devbroker.groups import Group, State
from streaming.devbroker.members import Joined, Joining, elected
from streaming.devbroker.refusals import Refusal

SESSION_S, REBALANCE_S = 10.0, 60.0


def said(member_id: str = "", *, instance: str | None = None, protocols=(("range", b"s"),), **more) -> Joining:
    fields = {"client": "c", "host": "/h", "session_s": SESSION_S, "rebalance_s": REBALANCE_S, "needs_id": False}
    kind = more.pop("protocol_type", "consumer")
    return Joining(member_id, instance, protocol_type=kind, protocols=tuple(protocols), **(fields | more))


def code(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


def scene(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Play a test inside an event loop; nothing in it waits."""

    def played(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    played.__name__ = test.__name__
    return played


def settle(group: Group, joined: list[Joined], now: float = 0.0) -> dict[str, bytes]:
    """Let the leader share out the work and everybody fetch its share."""
    shares = {one.member_id: f"share {number}".encode() for number, one in enumerate(joined)}
    pending = [
        group.sync(one.member_id, None, one.generation, shares if one.member_id == one.leader else {}, now)
        for one in joined
    ]
    assert group.state is State.STABLE
    return {one.member_id: share.result() for one, share in zip(joined, pending, strict=True)}


def pair(group: Group, now: float = 0.0) -> list[Joined]:
    """Bring two members to a stable group."""
    first = group.join(said(), now).result()
    second = group.join(said(), now)
    assert not second.done()
    again = group.join(said(first.member_id), now)
    joined = [again.result(), second.result()]
    settle(group, joined, now)
    return joined


@scene
async def test_the_first_member_leads_alone() -> None:
    group = Group()
    joined = group.join(said(), 0).result()
    assert joined.leader == joined.member_id
    assert joined.generation == 1
    assert settle(group, [joined]) == {joined.member_id: b"share 0"}


@scene
async def test_a_second_member_waits_until_the_first_has_joined_again() -> None:
    group = Group()
    first, second = pair(group)
    assert first.generation == second.generation == 2
    assert {one.leader for one in (first, second)} == {first.member_id}
    assert {member for member, _, _ in first.members} == {first.member_id, second.member_id}
    assert second.members == ()


@scene
async def test_members_are_told_of_a_rebalance_by_their_heartbeat() -> None:
    group = Group()
    first = group.join(said(), 0).result()
    settle(group, [first])
    group.heartbeat(first.member_id, None, 1, 0)
    group.join(said(), 0)
    assert code(lambda: group.heartbeat(first.member_id, None, 1, 0)) == ErrorCode.rebalance_in_progress


@scene
async def test_a_silent_member_is_gone_after_its_session_and_not_before() -> None:
    group = Group()
    first, second = pair(group)
    group.heartbeat(first.member_id, None, 2, SESSION_S)
    group.tick(SESSION_S)
    assert len(group.members) == 2
    group.tick(SESSION_S + 0.1)
    assert list(group.members) == [first.member_id]
    assert group.state is State.JOINING
    assert code(lambda: group.heartbeat(second.member_id, None, 2, 11)) == ErrorCode.unknown_member_id
    assert group.join(said(first.member_id), 11).result().generation == 3


@scene
async def test_a_member_that_waits_for_the_others_is_not_silent() -> None:
    group = Group()
    first, _ = pair(group)
    waiting = group.join(said(first.member_id), 0)
    group.tick(9)
    assert not waiting.done()
    assert len(group.members) == 2


@scene
async def test_who_does_not_join_again_in_time_is_left_behind() -> None:
    group = Group()
    first, second = pair(group)
    waiting = group.join(said(first.member_id), 0)
    for now in range(0, int(REBALANCE_S), 5):  # it beats, but never joins
        with pytest.raises(Refusal):
            group.heartbeat(second.member_id, None, 2, now)
        group.tick(now)
    assert not waiting.done()
    group.tick(REBALANCE_S + 0.1)
    assert waiting.result().generation == 3
    assert list(group.members) == [first.member_id]


@scene
async def test_a_leader_that_never_brings_the_shares_is_replaced() -> None:
    group = Group()
    first, second = pair(group)
    joined = [group.join(said(one.member_id), 0) for one in (first, second)]
    generation = joined[0].result().generation
    waiting = group.sync(second.member_id, None, generation, {}, 0)
    for now in range(0, 70, 5):
        if first.member_id in group.members:
            group.heartbeat(first.member_id, None, generation, now)
        group.tick(now)
    assert waiting.done()
    assert isinstance(waiting.exception(), Refusal)
    assert list(group.members) == [second.member_id]
    assert group.join(said(second.member_id), 65).result().leader == second.member_id


@scene
async def test_a_leaver_starts_a_rebalance_at_once_and_the_last_one_empties_the_group() -> None:
    group = Group()
    first, second = pair(group)
    group.leave(second.member_id, None, 0)
    assert group.state is State.JOINING
    group.leave(first.member_id, None, 0)
    assert group.state is State.EMPTY
    assert code(lambda: group.leave(first.member_id, None, 0)) == ErrorCode.unknown_member_id


@scene
async def test_an_id_is_given_before_it_is_used() -> None:
    group = Group()
    with pytest.raises(Refusal) as caught:
        group.join(said(needs_id=True), 0)
    assert caught.value.code == ErrorCode.member_id_required
    assert not group.members
    assert group.join(said(caught.value.message, needs_id=True), 1).result().member_id == caught.value.message
    assert code(lambda: group.join(said("invented"), 1)) == ErrorCode.unknown_member_id


@scene
async def test_an_id_that_nobody_uses_holds_the_others_up_for_one_session_only() -> None:
    group = Group()
    first = group.join(said(), 0).result()
    settle(group, [first])
    with pytest.raises(Refusal):
        group.join(said(needs_id=True), 0)
    waiting = group.join(said(first.member_id), 0)
    assert not waiting.done()
    group.tick(SESSION_S + 0.1)
    assert waiting.done()


@scene
async def test_a_commit_needs_a_member_of_the_present_generation() -> None:
    group = Group()
    group.check_commit("", None, -1, 0)
    first, second = pair(group)
    group.check_commit(first.member_id, None, 2, 0)
    assert code(lambda: group.check_commit("", None, -1, 0)) == ErrorCode.unknown_member_id
    assert code(lambda: group.check_commit(second.member_id, None, 1, 0)) == ErrorCode.illegal_generation
    for one in (first, second):
        group.join(said(one.member_id), 0)
    assert group.state is State.SYNCING
    assert code(lambda: group.check_commit(first.member_id, None, 3, 0)) == ErrorCode.rebalance_in_progress


@scene
async def test_members_that_speak_no_common_protocol_do_not_mix() -> None:
    group = Group()
    group.join(said(), 0)
    other = ErrorCode.inconsistent_group_protocol
    assert code(lambda: group.join(said(protocols=(("sticky", b""),)), 0)) == other
    assert code(lambda: group.join(said(protocol_type="connect"), 0)) == other
    assert code(lambda: group.join(said(protocols=()), 0)) == other


def test_the_protocol_most_members_prefer_is_elected() -> None:
    def ballot(names: str) -> tuple[tuple[str, bytes], ...]:
        return tuple((name, b"") for name in names)

    assert elected([ballot("ab"), ballot("ba"), ballot("ba")]) == "b"
    assert elected([ballot("ab"), ballot("ba")]) == "a"
    assert elected([ballot("abc"), ballot("bc"), ballot("cb")]) == "b"


@scene
async def test_a_follower_that_repeats_itself_hears_the_same_and_the_leader_begins_anew() -> None:
    group = Group()
    first, second = pair(group)
    assert group.join(said(second.member_id), 0).result().generation == 2
    assert group.state is State.STABLE
    assert not group.join(said(first.member_id), 0).done()
    assert group.state is State.JOINING


@scene
async def test_a_restarted_static_member_succeeds_itself_and_fences_its_former_self() -> None:
    group = Group()
    first = group.join(said(instance="a"), 0).result()
    second = group.join(said(instance="b"), 0)
    joined = [group.join(said(first.member_id, instance="a"), 0).result(), second.result()]
    shares = {one.member_id: one.member_id.encode() for one in joined}
    for one, instance in zip(joined, "ab", strict=True):
        group.sync(one.member_id, instance, 2, shares if instance == "a" else {}, 0)
    former = joined[1].member_id
    back = group.join(said(instance="b"), 5).result()
    assert (back.generation, back.leader) == (2, joined[0].member_id)
    assert back.member_id != former
    assert group.sync(back.member_id, "b", 2, {}, 5).result() == former.encode()
    assert code(lambda: group.heartbeat(former, "b", 2, 5)) == ErrorCode.fenced_instance_id
    leader = group.join(said(instance="a"), 5).result()
    assert leader.leader == joined[0].member_id != leader.member_id
    assert group.state is State.STABLE
    group.leave("", "b", 5)
    assert group.state is State.JOINING
