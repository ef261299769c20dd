"""The topics as a store of a home: founded once, and known again by the identity of each one's log."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from domain import topics
from domain.config import Places
from domain.errors import BadState
from streaming.devbroker.topic import Topic
from streaming.kafka import Kafka, at_broker
from streaming.topics import create_topics, names_at_broker
from warehouse.identity import Identity, alone, identity_of, write
from warehouse.marks import Look
from warehouse.stores import ASK

WHAT = "topics' logs"


def found_topics(places: Places, instruments: Sequence[str], deadline_s: float = 30.0) -> None:
    """Create the topics when the home never had any, and widen those that it has for instruments added since.

    Raises
    ------
    Unavailable
        As ``create_topics``.
    BadState
        Likewise; also when topics that the home had are missing, or others stand under their names.
    """
    broker = Kafka(places)
    found = topics_at_broker(places, broker, deadline_s)  # waits for it, so that nobody waits behind our lock
    identity = identity_of(places.home)
    if identity is None:
        create_topics(places, instruments, deadline_s, broker.admin)
        return
    _demand(places, identity, found)
    if identity.topics.keys() == found.keys() == set(topics.ALL):
        create_topics(places, instruments, deadline_s, broker.admin)
        return
    with alone(places.home):
        identity = identity_of(places.home) or identity
        _demand(places, identity, topics_at_broker(places, broker, deadline_s))
        create_topics(places, instruments, deadline_s, broker.admin)
        logs = topics_at_broker(places, broker, deadline_s)
        if "topics" not in identity.stores:
            identity = identity.having("topics", next(iter(logs.values())).partition("/")[0])
        write(places.home, identity.model_copy(update={"topics": logs}))


def topics_at_broker(places: Places, broker: Kafka, deadline_s: float = 5.0) -> dict[str, str]:
    """Return the identity of each topic of the home that the broker has.

    Raises
    ------
    Unavailable
        When it does not answer within the deadline.
    """
    there = names_at_broker(broker.admin, places, deadline_s)
    return broker.identities(name for name in topics.ALL if at_broker(places, name) in there)


def topics_at_rest(places: Places) -> dict[str, str]:
    """Return the identity of each topic of the home that lies in the dev broker's directory, running or not.

    Raises
    ------
    BadState
        When its catalog is damaged.
    """
    data = broker_at(places)
    file = data / "catalog.json"
    ours = {at_broker(places, name): name for name in topics.ALL}
    try:
        catalog = json.loads(file.read_bytes())
        cluster = catalog["cluster_id"]
        found = [Topic(**topic) for topic in catalog["topics"] if topic["name"] in ours]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadState(f"{file} is damaged ({error})") from error
    return {
        ours[topic.name]: f"{cluster}/{base64.b64encode(topic.uuid.bytes).decode().rstrip('=')}"
        for topic in found
        if all(any((data / "topics" / topic.directory / str(p)).glob("*.log")) for p in range(topic.partitions))
    }


def look_at_topics(places: Places, identity: Identity) -> Look:
    """Return what is found where the home's topics should be: on disk for the dev broker, else at the broker.

    Raises
    ------
    Unavailable
        When another broker than ours does not answer.
    """
    ours = not places.kafka_bootstrap_servers
    where = str(broker_at(places)) if ours else places.bootstrap
    try:
        found = topics_at_rest(places) if ours else topics_at_broker(places, Kafka(places))
    except BadState as error:
        if ours:
            return Look(WHAT, where, f"are damaged ({error})")
        raise
    return Look(WHAT, where, fault_of(identity, found))


def _demand(places: Places, identity: Identity, found: Mapping[str, str]) -> None:
    if fault := fault_of(identity, found):
        raise BadState(f"the {WHAT} at {places.bootstrap} {fault}; {ASK}")


def broker_at(places: Places) -> Path:
    """Return the directory of the dev broker of a home."""
    return places.home.absolute() / "broker"


def fault_of(identity: Identity, found: Mapping[str, str]) -> str:
    """Return what is wrong with the logs that were found; nothing where none were founded yet.

    >>> home = Identity.new().having("topics", "c").model_copy(update={"topics": {"bars": "c/1", "features": "c/2"}})
    >>> fault_of(home, {"bars": "c/1", "features": "c/2"})
    ''
    >>> fault_of(home, {"bars": "c/1", "features": "c/3"})
    'are others of the same name than this home has: features'
    >>> fault_of(home, {"bars": "d/1", "features": "d/2"})
    'are of another home or an earlier broker'
    >>> fault_of(home, {})
    'are missing'
    """
    founded = identity.topics
    missing = [name for name in founded if name not in found]
    others = [name for name in founded if name in found and found[name] != founded[name]]
    clusters = {log.partition("/")[0] for log in found.values()}
    if founded and len(missing) == len(founded):
        return "are missing"
    if founded and not clusters & {log.partition("/")[0] for log in founded.values()}:
        return "are of another home or an earlier broker"
    if others:
        return f"are others of the same name than this home has: {', '.join(others)}"
    return f"are missing: {', '.join(missing)}" if missing else ""
