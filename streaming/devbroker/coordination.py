"""Answers to consumer groups: joining, sharing, staying, leaving, and how far they have read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import NODE, Ask
from streaming.devbroker.groups import Group, State
from streaming.devbroker.members import Joining
from streaming.devbroker.offsets import Committed
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.requests import Request, milliseconds
from streaming.devbroker.wire import Fields

SESSION_TIMEOUTS_MS = (6_000, 1_800_000)
"""The session timeouts a member may ask for (``group.min.session.timeout.ms``, ``group.max.session.timeout.ms``)."""

MAX_METADATA_BYTES = 4096
"""Of a committed offset (``offset.metadata.max.bytes``)."""

_GROUP_KEY = 0
_MEMBER_ID_REQUIRED_SINCE = 4
_DEAD: Fields = {"group_state": "Dead", "protocol_type": "", "protocol_data": "", "members": ()}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _code(act: Callable[[], object]) -> ErrorCode:
    try:
        act()
    except Refusal as refusal:
        return refusal.code
    return ErrorCode.none


def _named(group_id: str) -> str:
    if not group_id:
        raise Refusal(ErrorCode.invalid_group_id)
    return group_id


def _check_session(timeout_ms: int) -> None:
    shortest, longest = SESSION_TIMEOUTS_MS
    if not shortest <= timeout_ms <= longest:
        raise Refusal(ErrorCode.invalid_session_timeout)


def _instance(request: Request) -> str | None:
    found: str | None = getattr(request, "group_instance_id", None)
    return found


def find_coordinator(ask: Ask) -> Fields:
    """FindCoordinator: this node, of groups; transactions have none here."""
    if getattr(ask.request, "key_type", _GROUP_KEY) != _GROUP_KEY:
        refused = {"error_code": ErrorCode.transactional_id_authorization_failed, "host": "", "port": -1}
        return {"node_id": -1, "error_message": "the dev broker has no transactions", **refused}
    found = {"node_id": NODE, "host": ask.broker.host, "port": ask.broker.port}
    return {"error_code": ErrorCode.none, "error_message": None, **found}


async def join_group(ask: Ask) -> Fields:
    """JoinGroup: answered when everybody has joined."""
    session_ms = milliseconds(ask.request.session_timeout)
    rebalance_ms = milliseconds(getattr(ask.request, "rebalance_timeout", ask.request.session_timeout))
    said = Joining(
        member_id=ask.request.member_id,
        instance_id=_instance(ask.request),
        client=ask.call.client,
        host=ask.call.host,
        session_s=session_ms / 1000,
        rebalance_s=min(max(rebalance_ms, 0), SESSION_TIMEOUTS_MS[1]) / 1000,
        protocol_type=ask.request.protocol_type,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in ask.request.protocols),
        needs_id=ask.call.version >= _MEMBER_ID_REQUIRED_SINCE,
    )
    try:
        _check_session(session_ms)
        joined = await ask.broker.join(_named(ask.request.group_id), said, _now())
    except Refusal as refusal:
        member_id = refusal.message if refusal.code is ErrorCode.member_id_required else ask.request.member_id
        refused: Fields = {"error_code": refusal.code, "generation_id": -1, "protocol_name": "", "leader": ""}
        return {**refused, "member_id": member_id, "members": ()}
    return {
        "error_code": ErrorCode.none,
        "generation_id": joined.generation,
        "protocol_name": joined.protocol,
        "leader": joined.leader,
        "member_id": joined.member_id,
        "members": [
            {"member_id": member, "group_instance_id": instance, "metadata": subscription}
            for member, instance, subscription in joined.members
        ],
    }


async def sync_group(ask: Ask) -> Fields:
    """SyncGroup: answered with the member's share when the leader has brought the shares."""
    shares = {share.member_id: share.assignment for share in ask.request.assignments}
    try:
        group = ask.broker.group(_named(ask.request.group_id))
        pending = group.sync(ask.request.member_id, _instance(ask.request), ask.request.generation_id, shares, _now())
        return {"error_code": ErrorCode.none, "assignment": await pending}
    except Refusal as refusal:
        return {"error_code": refusal.code, "assignment": b""}


def heartbeat(ask: Ask) -> Fields:
    """Heartbeat."""

    def act() -> None:
        group = ask.broker.group(_named(ask.request.group_id))
        group.heartbeat(ask.request.member_id, _instance(ask.request), ask.request.generation_id, _now())

    return {"error_code": _code(act)}


def consumer_group_heartbeat(ask: Ask) -> Fields:
    """ConsumerGroupHeartbeat, of the newer group protocol: refused in words; not to know it leaves clients waiting."""
    why = "the dev broker has the classic group protocol only; set group.protocol=classic"
    refused: Fields = {"error_code": ErrorCode.unsupported_version, "error_message": why, "assignment": None}
    return {**refused, "member_id": ask.request.member_id, "member_epoch": -1, "heartbeat_interval": timedelta(0)}


def leave_group(ask: Ask) -> Fields:
    """LeaveGroup: one member, or, since version 3, several."""
    group = ask.broker.group(ask.request.group_id)

    def leave(member_id: str, instance_id: str | None) -> Fields:
        code = _code(lambda: group.leave(member_id, instance_id, _now()))
        return {"member_id": member_id, "group_instance_id": instance_id, "error_code": code}

    if not hasattr(ask.request, "members"):
        return leave(ask.request.member_id, None)
    left = [leave(leaver.member_id, leaver.group_instance_id) for leaver in ask.request.members]
    return {"error_code": ErrorCode.none, "members": left}


def offset_commit(ask: Ask) -> Fields:
    """OffsetCommit: by a member of the present generation, or by anybody while the group has no members."""

    def may() -> None:
        generation = getattr(ask.request, "generation_id_or_member_epoch", -1)
        group = ask.broker.group(_named(ask.request.group_id))
        group.check_commit(ask.request.member_id, _instance(ask.request), generation, _now())

    refused = _code(may)
    known, full = ask.broker.offsets.of(ask.request.group_id), ask.broker.offsets.full
    offsets: dict[tuple[str, int], Committed] = {}

    def taken(topic: str, asked: Request) -> ErrorCode:
        metadata = asked.committed_metadata or ""
        if refused is not ErrorCode.none:
            return refused
        if (topic, asked.partition_index) not in ask.broker.topics.logs:
            return ErrorCode.unknown_topic_or_partition
        if len(metadata.encode()) > MAX_METADATA_BYTES:
            return ErrorCode.offset_metadata_too_large
        if full and (topic, asked.partition_index) not in known:
            return ErrorCode.invalid_commit_offset_size
        epoch = getattr(asked, "committed_leader_epoch", -1)
        offsets[topic, asked.partition_index] = Committed(asked.committed_offset, epoch, metadata)
        return ErrorCode.none

    topics = [
        {
            "name": topic.name,
            "partitions": [
                {"partition_index": asked.partition_index, "error_code": taken(topic.name, asked)}
                for asked in topic.partitions
            ],
        }
        for topic in ask.request.topics
    ]
    ask.broker.offsets.commit(ask.request.group_id, offsets)
    return {"topics": topics}


def offset_fetch(ask: Ask) -> Fields:
    """OffsetFetch: of the partitions asked for, or of all the group has committed; -1 where it has not."""
    known = ask.broker.offsets.of(ask.request.group_id)
    asked: dict[str, Iterable[int]] = {}
    if ask.request.topics is None:
        asked = {topic: [key[1] for key in keys] for topic, keys in groupby(sorted(known), itemgetter(0))}
    else:
        asked = {topic.name: dict.fromkeys(topic.partition_indexes) for topic in ask.request.topics}

    def found(topic: str, partition: int) -> Fields:
        committed = known.get((topic, partition), Committed(-1, -1, ""))
        return {
            "partition_index": partition,
            "committed_offset": committed.offset,
            "committed_leader_epoch": committed.leader_epoch,
            "metadata": committed.metadata,
            "error_code": ErrorCode.none,
        }

    topics = [
        {"name": topic, "partitions": [found(topic, partition) for partition in partitions]}
        for topic, partitions in asked.items()
    ]
    return {"error_code": ErrorCode.none, "topics": topics}


def list_groups(ask: Ask) -> Fields:
    """ListGroups: with members or committed offsets."""
    states = getattr(ask.request, "states_filter", ())
    groups = []
    for name in sorted(ask.broker.group_names()):
        group = ask.broker.group(name)
        if not states or group.state.value in states:
            groups.append({"group_id": name, "protocol_type": group.protocol_type, "group_state": group.state.value})
    return {"error_code": ErrorCode.none, "groups": groups}


def describe_groups(ask: Ask) -> Fields:
    """DescribeGroups: one that nobody ever heard of is dead, as Kafka has it."""
    known = ask.broker.group_names()
    return {
        "groups": [
            {
                "error_code": ErrorCode.none,
                "group_id": name,
                **(_described(ask.broker.group(name)) if name in known else _DEAD),
            }
            for name in dict.fromkeys(ask.request.groups)
        ],
    }


def _described(group: Group) -> Fields:
    members = [
        {
            "member_id": member.id,
            "group_instance_id": member.said.instance_id,
            "client_id": member.said.client,
            "client_host": member.said.host,
            "member_metadata": member.subscription(group.protocol),
            "member_assignment": member.assignment,
        }
        for member in group.members.values()
    ]
    state = {"group_state": group.state.value, "protocol_type": group.protocol_type, "protocol_data": group.protocol}
    return {**state, "members": members}


def delete_groups(ask: Ask) -> Fields:
    """DeleteGroups: without members only."""
    known = ask.broker.group_names()

    def delete(name: str) -> None:
        if name not in known:
            raise Refusal(ErrorCode.group_id_not_found)
        if ask.broker.group(name).state is not State.EMPTY:
            raise Refusal(ErrorCode.non_empty_group)
        ask.broker.groups.pop(name, None)
        ask.broker.offsets.forget(name)
        known.discard(name)

    return {
        "results": [
            {"group_id": name, "error_code": _code(partial(delete, name))} for name in ask.request.groups_names
        ],
    }
