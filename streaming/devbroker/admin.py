"""Answers about the cluster and its topics: what there is, and what is to be made, widened or deleted."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Mapping
from functools import partial

from kio.schema.errors import ErrorCode

from streaming.devbroker.broker import NODE, Ask, Broker
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.requests import Request
from streaming.devbroker.settings import SETTINGS
from streaming.devbroker.topic import Topic
from streaming.devbroker.wire import Fields

_NAMELESS_SINCE = 12
"""From this version of Metadata on a topic asked for by an identity that is not here has no name in the answer."""

_TOPIC, _BROKER = 2, 4
_CHOSEN, _STATIC, _DEFAULT = 1, 4, 5
_KINDS = {"string": 2, "int": 3, "long": 5, "list": 7}


async def _outcome(acting: Awaitable[object]) -> Fields:
    """Return the error fields of an item of a request after acting on it."""
    try:
        await acting
    except Refusal as refusal:
        return {"error_code": refusal.code, "error_message": refusal.message}
    return {"error_code": ErrorCode.none, "error_message": None}


def _nodes(broker: Broker) -> list[Fields]:
    return [{"node_id": NODE, "broker_id": NODE, "host": broker.host, "port": broker.port, "rack": None}]


def metadata(ask: Ask) -> Fields:
    """Metadata: the node, and the topics asked for or all; a topic that is not there is not made."""
    if ask.request.topics is None:
        topics = [_described(topic) for topic in ask.broker.topics]
    else:
        by_id = {topic.uuid: topic for topic in ask.broker.topics}
        asked = {(topic.name, getattr(topic, "topic_id", None)) for topic in ask.request.topics}  # each once
        topics = [_found(ask.broker, by_id, *one) for one in asked]
    if ask.call.version < _NAMELESS_SINCE:
        topics = [{**topic, "name": topic["name"] or ""} for topic in topics]
    return {
        "brokers": _nodes(ask.broker),
        "cluster_id": ask.broker.topics.cluster_id,
        "controller_id": NODE,
        "topics": topics,
    }


def _found(broker: Broker, by_id: Mapping[uuid.UUID, Topic], name: str | None, topic_id: uuid.UUID | None) -> Fields:
    absent = {"name": name, "topic_id": topic_id, "partitions": ()}
    if name is None:
        known = by_id.get(topic_id) if topic_id else None
        return _described(known) if known else {"error_code": ErrorCode.unknown_topic_id, **absent}
    try:
        return _described(broker.topics.topic(name))
    except Refusal as refusal:
        return {"error_code": refusal.code, **absent}


def _described(topic: Topic) -> Fields:
    partitions = [
        {
            "error_code": ErrorCode.none,
            "partition_index": index,
            "leader_id": NODE,
            "leader_epoch": 0,
            "replica_nodes": (NODE,),
            "isr_nodes": (NODE,),
        }
        for index in range(topic.partitions)
    ]
    return {"error_code": ErrorCode.none, "name": topic.name, "topic_id": topic.uuid, "partitions": partitions}


def describe_cluster(ask: Ask) -> Fields:
    """DescribeCluster: the node and the identity of the log."""
    return {
        "error_code": ErrorCode.none,
        "error_message": None,
        "cluster_id": ask.broker.topics.cluster_id,
        "controller_id": NODE,
        "brokers": _nodes(ask.broker),
    }


async def create_topics(ask: Ask) -> Fields:
    """CreateTopics."""
    dry = ask.request.validate_only
    return {"topics": [await _create(ask.broker, wanted, dry=dry) for wanted in ask.request.topics]}


async def _create(broker: Broker, wanted: Request, *, dry: bool) -> Fields:
    made: list[Topic] = []

    async def act() -> None:
        if wanted.assignments:
            raise Refusal(ErrorCode.invalid_replica_assignment, "one node: there is nothing to assign")
        if wanted.replication_factor not in {-1, 1}:
            raise Refusal(ErrorCode.invalid_replication_factor, "one node: the replication factor is 1")
        settings = {setting.name: setting.value for setting in wanted.configs}
        create = partial(broker.topics.create, wanted.name, wanted.num_partitions, settings, dry=dry)
        made.append(await broker.change_topics(create))

    outcome = {"name": wanted.name, "topic_id": None, "configs": None, **await _outcome(act())}
    if not made:
        return outcome
    topic = made[0]
    configs = [
        {"name": name, "value": value, "read_only": False, "config_source": source, "is_sensitive": False}
        for name, value, source in _settings(topic)
    ]
    # A dry run made no identity that anybody could meet again.
    identity = None if dry else topic.uuid
    described = {"num_partitions": topic.partitions, "replication_factor": 1, "configs": configs}
    return outcome | described | {"topic_id": identity}


async def delete_topics(ask: Ask) -> Fields:
    """DeleteTopics, by name."""
    names = ask.request.topic_names
    return {"responses": [{"name": name, **await _outcome(ask.broker.delete_topic(name))} for name in names]}


async def create_partitions(ask: Ask) -> Fields:
    """CreatePartitions: more of them, never fewer."""

    async def act(wanted: Request) -> None:
        if wanted.assignments:
            raise Refusal(ErrorCode.invalid_replica_assignment, "one node: there is nothing to assign")
        widen = partial(ask.broker.topics.widen, wanted.name, wanted.count, dry=ask.request.validate_only)
        await ask.broker.change_topics(widen)

    return {"results": [{"name": asked.name, **await _outcome(act(asked))} for asked in ask.request.topics]}


async def describe_configs(ask: Ask) -> Fields:
    """DescribeConfigs: the settings of topics, in force and honoured; the broker's own are its command line."""
    # Each once, however often it is asked for: an answer is ten times as long as its question.
    resources = {(asked.resource_type, asked.resource_name): asked for asked in ask.request.resources}
    return {"results": [await _configs(ask.broker, asked) for asked in resources.values()]}


async def _configs(broker: Broker, asked: Request) -> Fields:
    configs: list[Fields] = []

    async def act() -> None:
        if asked.resource_type == _TOPIC:
            settings = _settings(broker.topics.topic(asked.resource_name))
        elif asked.resource_type == _BROKER and asked.resource_name in {"", str(NODE)}:
            settings = [(name, setting.default, _STATIC) for name, setting in SETTINGS.items()]
        else:
            raise Refusal(ErrorCode.invalid_request, f"no settings of {asked.resource_name[:249]!r} here")
        keys = asked.configuration_keys
        configs.extend(_config(*setting) for setting in settings if keys is None or setting[0] in keys)

    outcome = await _outcome(act())
    return {"resource_type": asked.resource_type, "resource_name": asked.resource_name, "configs": configs, **outcome}


def _settings(topic: Topic) -> list[tuple[str, str, int]]:
    """Return (name, value, where it comes from) of every setting of a topic."""
    return [
        (name, topic.settings.get(name, setting.default), _CHOSEN if name in topic.settings else _DEFAULT)
        for name, setting in SETTINGS.items()
    ]


def _config(name: str, value: str, source: int) -> Fields:
    return {
        "name": name,
        "value": value,
        "read_only": True,  # there is no request to alter them
        "config_source": source,
        "is_sensitive": False,
        "synonyms": (),
        "config_type": _KINDS[SETTINGS[name].kind],
        "documentation": SETTINGS[name].says,
    }
