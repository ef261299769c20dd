"""Which requests the broker serves, in which versions, and who answers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from streaming.devbroker import admin, coordination, positions
from streaming.devbroker.broker import Ask
from streaming.devbroker.fetch import VERSIONS as FETCH_VERSIONS
from streaming.devbroker.produce import VERSIONS as PRODUCE_VERSIONS
from streaming.devbroker.wire import Fields

Handler = Callable[[Ask], Fields | Awaitable[Fields]]

PRODUCE, FETCH, API_VERSIONS = 0, 1, 18


class Api(NamedTuple):
    """A request the broker serves: from which version to which, and by whom."""

    first: int
    last: int
    handler: Handler


def api_versions(_ask: Ask) -> Fields:
    """ApiVersions: exactly what is served."""
    return offered(ErrorCode.none)


async def init_producer_id(ask: Ask) -> Fields:
    """InitProducerId: a new id for an idempotent producer; a transactional one is refused."""
    if ask.request.transactional_id is not None:
        return {"error_code": ErrorCode.transactional_id_authorization_failed, "producer_id": -1, "producer_epoch": -1}
    new = await ask.broker.change_topics(ask.broker.topics.new_producer)
    return {"error_code": ErrorCode.none, "producer_id": new, "producer_epoch": 0}


# Where versions stop below Kafka's newest, the next one changes the shape of the request and brings nothing that
# one node without transactions could give.
APIS: dict[int, Api] = {
    2: Api(1, 7, positions.list_offsets),
    3: Api(1, 12, admin.metadata),
    8: Api(2, 8, coordination.offset_commit),
    9: Api(1, 7, coordination.offset_fetch),
    10: Api(0, 3, coordination.find_coordinator),
    11: Api(0, 6, coordination.join_group),
    12: Api(0, 4, coordination.heartbeat),
    13: Api(0, 4, coordination.leave_group),
    14: Api(0, 4, coordination.sync_group),
    15: Api(0, 5, coordination.describe_groups),
    16: Api(0, 4, coordination.list_groups),
    API_VERSIONS: Api(0, 3, api_versions),
    19: Api(2, 7, admin.create_topics),
    20: Api(1, 5, admin.delete_topics),
    22: Api(0, 4, init_producer_id),
    32: Api(1, 4, admin.describe_configs),
    37: Api(0, 3, admin.create_partitions),
    42: Api(0, 2, coordination.delete_groups),
    60: Api(0, 0, admin.describe_cluster),
    68: Api(0, 1, coordination.consumer_group_heartbeat),
}

VERSIONS: dict[int, tuple[int, int]] = {
    PRODUCE: PRODUCE_VERSIONS,
    FETCH: FETCH_VERSIONS,
    **{key: (api.first, api.last) for key, api in APIS.items()},
}


def offered(code: ErrorCode) -> Fields:
    """Return the fields of an ApiVersions answer."""
    served = [{"api_key": key, "min_version": low, "max_version": high} for key, (low, high) in VERSIONS.items()]
    return {"error_code": code, "api_keys": served}
