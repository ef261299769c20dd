"""Every request in every version the broker offers, against the schemas of the protocol."""

from __future__ import annotations

import io
import socket
import struct
import uuid
from datetime import timedelta

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

from streaming.devbroker.apis import APIS, VERSIONS
from streaming.devbroker.wire import builder

SECOND = timedelta(seconds=1)
ONE = [{"name": "TOPIC", "partition_index": 0}]
ASKED: dict[int, dict[str, object]] = {
    0: {
        "transactional_id": None,
        "acks": 1,
        "timeout": SECOND,
        "topic_data": [{"name": "TOPIC", "partition_data": [{"index": 0, "records": "BATCH"}]}],
    },
    1: {
        "replica_id": -1,
        "max_wait": SECOND,
        "min_bytes": 1,
        "isolation_level": 0,
        "topics": [
            {"topic": "TOPIC", "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}]}
        ],
        "forgotten_topics_data": [{"topic": "TOPIC", "partitions": (0,)}],
    },
    2: {
        "replica_id": -1,
        "isolation_level": 0,
        "topics": [{"name": "TOPIC", "partitions": [{"partition_index": 0, "timestamp": -1}]}],
    },
    3: {
        "topics": [{"name": "TOPIC", "topic_id": None}],
        "include_topic_authorized_operations": False,
        "include_cluster_authorized_operations": False,
    },
    8: {
        "group_id": "some",
        "member_id": "",
        "retention_time": SECOND,
        "topics": [
            {
                "name": "TOPIC",
                "partitions": [{"partition_index": 0, "committed_offset": 1, "committed_metadata": None}],
            }
        ],
    },
    9: {"group_id": "some", "topics": [{"name": "TOPIC", "partition_indexes": (0,)}]},
    10: {"key": "some", "key_type": 0},
    11: {
        "group_id": "joined",
        "session_timeout": 10 * SECOND,
        "rebalance_timeout": SECOND,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b"x"}],
    },
    12: {"group_id": "some", "generation_id": 1, "member_id": "nobody"},
    13: {"group_id": "some", "member_id": "nobody", "members": [{"member_id": "nobody"}]},
    14: {
        "group_id": "some",
        "generation_id": 1,
        "member_id": "nobody",
        "assignments": [{"member_id": "x", "assignment": b"x"}],
    },
    15: {"groups": ("some", "never heard of"), "include_authorized_operations": False},
    16: {"states_filter": ()},
    18: {"client_software_name": "test", "client_software_version": "1"},
    19: {
        "topics": [
            {
                "name": "FRESH",
                "num_partitions": 1,
                "replication_factor": 1,
                "assignments": (),
                "configs": [{"name": "retention.ms", "value": "5"}],
            }
        ],
        "validate_only": True,
    },
    20: {"topic_names": ("FRESH",), "timeout": SECOND},
    22: {"transactional_id": None, "transaction_timeout": SECOND},
    32: {"resources": [{"resource_type": 2, "resource_name": "TOPIC", "configuration_keys": None}]},
    37: {"topics": [{"name": "TOPIC", "count": 2, "assignments": None}], "timeout": SECOND, "validate_only": True},
    42: {"groups_names": ("never heard of",)},
    60: {"include_cluster_authorized_operations": False},
    68: {
        "group_id": "some",
        "member_id": "somebody",
        "member_epoch": 0,
        "subscribed_topic_names": ("TOPIC",),
        "topic_partitions": (),
    },
}
MAY_REFUSE = {
    ErrorCode.unknown_member_id,
    ErrorCode.member_id_required,
    ErrorCode.unknown_topic_or_partition,
    ErrorCode.group_id_not_found,
    ErrorCode.unsupported_version,  # the newer group protocol
}
EVERY = [(api, version) for api, (low, high) in VERSIONS.items() for version in range(low, high + 1)]


def filled(asked: object, words: dict[str, object]) -> object:
    if isinstance(asked, dict):
        return {name: filled(value, words) for name, value in asked.items()}
    if isinstance(asked, list | tuple):
        return type(asked)(filled(value, words) for value in asked)
    return words.get(asked, asked) if isinstance(asked, str) else asked


def exchanged(bootstrap: str, api: int, version: int, request: object) -> object:
    """Send a request as the protocol's schemas write it, and read the answer by them, to its last byte."""
    schema = load_request_schema(api, version)
    buffer = io.BytesIO()
    buffer.write(struct.pack(">hhihs", api, version, 77, 1, b"c"))
    if schema.__flexible__:
        buffer.write(b"\x01\x09\x03abc")  # a tagged field of the header that nobody knows is skipped
    entity_writer(schema)(buffer, builder(schema)(request))
    frame = sent(bootstrap, buffer.getvalue())
    answer = load_response_schema(api, version)
    head = 5 if answer.__header_schema__.__flexible__ else 4
    assert struct.unpack_from(">i", frame) == (77,)
    entity, size = entity_reader(answer)(frame, head)
    assert head + size == len(frame)
    return entity


def sent(bootstrap: str, body: bytes) -> bytes:
    """Return the frame that answers a frame, empty when the broker hangs up."""
    host, port = bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        with connection.makefile("rb") as stream:
            head = stream.read(4)
            return stream.read(struct.unpack(">i", head)[0]) if head else b""


def codes(entity: object) -> set[ErrorCode]:
    found: set[ErrorCode] = set()
    for name in getattr(entity, "__dataclass_fields__", ()):
        value = getattr(entity, name)
        if isinstance(value, ErrorCode):
            found.add(value)
        for inner in value if isinstance(value, tuple) else ():
            found |= codes(inner)
    return found


@pytest.mark.parametrize(("api", "version"), EVERY, ids=[f"api{api}-v{version}" for api, version in EVERY])
def test_every_offered_version_is_answered_by_its_schema(
    bootstrap: str, topic, fresh_name, batch, api: int, version: int
) -> None:
    words = {"TOPIC": topic(retention_ms="-1"), "FRESH": fresh_name(), "BATCH": bytes(batch(3)), "some": fresh_name()}
    words["joined"] = fresh_name()
    if api == 1:
        exchanged(bootstrap, 0, 7, filled(ASKED[0], words))
    answer = exchanged(bootstrap, api, version, filled(ASKED[api], words))
    assert codes(answer) <= {ErrorCode.none} | MAY_REFUSE


def test_there_is_a_request_for_every_api() -> None:
    assert set(ASKED) == set(VERSIONS) == {0, 1, *APIS}


def test_produce_and_fetch_by_hand_say_what_the_schemas_say(bootstrap: str, topic, batch) -> None:
    words = {"TOPIC": topic(retention_ms="-1"), "BATCH": bytes(batch(3, timestamp=5))}
    for number in range(2):
        produced = exchanged(bootstrap, 0, 8, filled(ASKED[0], words)).responses[0].partition_responses[0]
        assert (produced.error_code, produced.base_offset, produced.log_start_offset) == (0, 3 * number, 0)
    fetched = exchanged(bootstrap, 1, 11, filled(ASKED[1], words)).responses[0].partitions[0]
    assert (fetched.error_code, fetched.high_watermark, fetched.last_stable_offset) == (0, 6, 6)
    assert fetched.records[61 : 61 + 5] == words["BATCH"][61 : 61 + 5]
    assert len(fetched.records) == 2 * len(words["BATCH"])
    absent = exchanged(bootstrap, 1, 11, filled(ASKED[1], {"TOPIC": "absent"})).responses[0].partitions[0]
    assert absent.error_code == ErrorCode.unknown_topic_or_partition
    outside = filled(ASKED[1], words)
    outside["topics"][0]["partitions"][0]["fetch_offset"] = 7
    found = exchanged(bootstrap, 1, 11, outside).responses[0].partitions[0]
    assert found.error_code == ErrorCode.offset_out_of_range


def test_a_harmed_batch_is_refused_on_the_wire(bootstrap: str, topic, batch) -> None:
    harmed = bytearray(batch(3))
    harmed[-1] ^= 1
    answer = exchanged(bootstrap, 0, 7, filled(ASKED[0], {"TOPIC": topic(retention_ms="-1"), "BATCH": bytes(harmed)}))
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.corrupt_message


def test_a_newer_client_learns_what_it_may_ask(bootstrap: str) -> None:
    frame = sent(bootstrap, struct.pack(">hhih", 18, 99, 5, -1))
    answer, _ = entity_reader(load_response_schema(18, 0))(frame, 4)
    assert answer.error_code == ErrorCode.unsupported_version
    assert {(key.api_key, key.min_version, key.max_version) for key in answer.api_keys} == {
        (key, *versions) for key, versions in VERSIONS.items()
    }


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">hhih", 0, 99, 5, -1),  # a version not offered
        struct.pack(">hhih", 24, 0, 5, -1),  # AddPartitionsToTxn
        struct.pack(">hhih", 3, 12, 5, -1),  # ends before its fields
        struct.pack(">hhihi", 42, 0, 5, -1, 2**31 - 1),  # an array no memory could hold
        struct.pack(">hhihhbi", 3, 9, 5, -1, 0, 0, -1) + b"\xff" * 4,
        b"\xff\xff",
        uuid.uuid4().bytes * 10,
    ],
)
def test_what_is_no_request_ends_its_connection_and_no_other(bootstrap: str, admin, body: bytes) -> None:
    assert sent(bootstrap, body) == b""
    assert admin.list_topics(timeout=10).brokers
