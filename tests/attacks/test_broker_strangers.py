"""A dev broker among strangers: whatever they send or leave unread, its clients are answered and it can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.attacks.requests import batch, frame
from tests.attacks.strangers import (
    DEADLINE_S,
    answer,
    asked,
    connected,
    crowd,
    descriptors,
    framed,
    head,
    hung_up,
    pushed,
    resident,
    until,
)
from tests.brokers import BrokerProcess, broker_process

PATIENCE_S = 2.0
MIB = 1 << 20
HELD_MIB = 128 + 64
"""What all unanswered requests and all unread answers may be together, see ``streaming.devbroker.limits``."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Return a broker with little patience, and 32 MiB in its topic ``full``."""
    with broker_process(tmp_path_factory.mktemp("strangers"), "--patience", str(PATIENCE_S)) as process:
        admin = AdminClient({"bootstrap.servers": process.address})
        for done in admin.create_topics([NewTopic("full", 1, 1)]).values():
            done.result(DEADLINE_S)
        producer = Producer({"bootstrap.servers": process.address})
        for _ in range(64):
            producer.produce("full", os.urandom(MIB // 2))
        assert producer.flush(DEADLINE_S) == 0
        yield process


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[socket.socket]:
    """Return a client that has asked before, and is answered still when its test is over."""
    with connected(broker.port) as one:
        asked(one)
        yield one
        asked(one)


@pytest.mark.parametrize("size", [100_000, 300_000, 600_000])
def test_a_number_without_an_end_keeps_nobody_waiting(broker: BrokerProcess, client: socket.socket, size: int) -> None:
    body = struct.pack(">hhih", 3, 9, 5, -1) + b"\xff" * size
    for _ in range(3):
        with connected(broker.port) as stranger:
            stranger.sendall(framed(body))
            assert asked(client) < DEADLINE_S / 6
            assert hung_up(stranger)


@pytest.mark.parametrize(
    "body",
    [
        head(3, 1) + struct.pack(">i", 300_000) + struct.pack(">hs", 1, b"x") * 300_000,
        head(3, 9) + b"\x00" + b"\xff\xff\x03" + b"\x02x" * 60_000,
        struct.pack(">hhih", 3, 9, 5, -1) + b"\xff\xff\x1f" + b"\x00\x00" * 500_000,
        head(42, 0) + struct.pack(">i", 2**31 - 1),
    ],
    ids=["names", "compact names", "tags", "a length that is not there"],
)
def test_a_request_of_too_many_parts_is_hung_up_on(broker: BrokerProcess, client: socket.socket, body: bytes) -> None:
    with connected(broker.port) as stranger:
        stranger.sendall(framed(body))
        assert asked(client) < DEADLINE_S / 6
        assert hung_up(stranger)


@pytest.mark.parametrize("announced", [0, -1, 7, MIB + 1, 100 * MIB, 2**31 - 1])
def test_a_frame_is_refused_when_its_kind_of_request_is_never_so_large(
    broker: BrokerProcess, client: socket.socket, announced: int
) -> None:
    with connected(broker.port) as stranger:
        began = time.monotonic()
        stranger.sendall(struct.pack(">ihhi", announced, 3, 9, 5))
        assert hung_up(stranger)
    assert asked(client) < DEADLINE_S / 6
    assert time.monotonic() - began < DEADLINE_S


def test_unfinished_requests_take_a_bounded_memory_and_then_their_time_is_up(
    broker: BrokerProcess, client: socket.socket
) -> None:
    before, piece = resident(broker.pid), bytes(MIB)
    with crowd(broker.port, 12) as strangers:
        sent = dict.fromkeys(strangers, 0)
        for one in strangers:
            pushed(one, struct.pack(">ihhi", 100 * MIB, 0, 8, 5))
        until_s = time.monotonic() + DEADLINE_S
        while any(0 <= n < 60 * MIB for n in sent.values()) and time.monotonic() < until_s:
            for one in [one for one, n in sent.items() if 0 <= n < 60 * MIB]:
                taken = pushed(one, piece)
                sent[one] = -1 if taken < 0 else sent[one] + taken
            assert asked(client) < DEADLINE_S / 6
            assert resident(broker.pid) - before < (HELD_MIB + 64) * MIB
        assert all(hung_up(one) for one in strangers)
    until(lambda: resident(broker.pid) - before < 64 * MIB, "its memory is free again")


def test_a_request_that_trickles_is_dropped_at_its_deadline(broker: BrokerProcess, client: socket.socket) -> None:
    del client
    with connected(broker.port) as stranger:
        asked(stranger)
        began = time.monotonic()
        stranger.sendall(struct.pack(">ihhi", 5_000, 3, 9, 5))
        stranger.settimeout(0.1)
        while time.monotonic() - began < DEADLINE_S:
            try:
                stranger.sendall(b"x")
                assert stranger.recv(1) == b""
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert PATIENCE_S / 2 < time.monotonic() - began < DEADLINE_S


def test_connections_that_never_ask_are_ended_and_those_that_did_stay(
    broker: BrokerProcess, client: socket.socket
) -> None:
    with crowd(broker.port, 1_500) as strangers:
        for one in strangers[::2]:
            pushed(one, struct.pack(">i", 20))
        assert asked(client) < DEADLINE_S / 6
        assert all(hung_up(one) for one in strangers)
        assert asked(client) < DEADLINE_S / 6


def fetch(max_bytes: int, max_wait_ms: int = 0, min_bytes: int = 1) -> bytes:
    body = head(1, 4) + struct.pack(">iiiib", -1, max_wait_ms, min_bytes, max_bytes, 0)
    body += struct.pack(">ih4si", 1, 4, b"full", 1) + struct.pack(">iqi", 0, 0, max_bytes)
    return framed(body)


def test_readers_who_do_not_read_take_a_bounded_memory_and_then_their_time_is_up(
    broker: BrokerProcess, client: socket.socket
) -> None:
    before, opened = resident(broker.pid), descriptors(broker.pid)
    with crowd(broker.port, 60) as strangers:
        for one in strangers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pushed(one, fetch(2**31 - 1) * 50)
        for _ in range(40):
            assert asked(client) < DEADLINE_S / 6
            assert resident(broker.pid) - before < (HELD_MIB + 64) * MIB
            time.sleep(0.02)
        until(lambda: descriptors(broker.pid) <= opened, "those who read nothing are dropped")


def test_requests_sent_ahead_and_never_read_take_turns_with_those_of_others(
    broker: BrokerProcess, client: socket.socket
) -> None:
    before = resident(broker.pid)
    with crowd(broker.port, 20) as strangers:
        for one in strangers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pushed(one, framed(head(18, 0)) * 60_000)
        for _ in range(20):
            assert asked(client) < DEADLINE_S / 6
        assert resident(broker.pid) - before < HELD_MIB * MIB


def test_records_that_inflate_without_end_are_an_error_of_their_request(
    broker: BrokerProcess, client: socket.socket
) -> None:
    import zstandard

    admin = AdminClient({"bootstrap.servers": broker.address})
    for done in admin.create_topics([NewTopic("t", 2, 1)]).values():
        done.result(DEADLINE_S)
    for partition, bomb in enumerate(
        (batch(zstandard.compress(bytes(1 << 30)), 2**31 - 1, attributes=4), batch(b"\x01" * 400, 2**31 - 1))
    ):
        producing = {"index": partition, "records": bomb}
        written = {"transactional_id": None, "acks": 1, "topic_data": [{"name": "t", "partition_data": [producing]}]}
        looked = {"partition_index": partition, "timestamp": 2}
        with connected(broker.port) as stranger:
            stranger.sendall(framed(frame(0, 7, written)))
            assert answer(stranger)
            asking = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": "t", "partitions": [looked]}]}
            stranger.sendall(framed(frame(2, 1, asking)))
            assert asked(client) < DEADLINE_S / 6
            assert struct.unpack_from(">h", answer(stranger), 19)[0] in {2, 7}
    assert resident(broker.pid) < 500 * MIB


@pytest.mark.parametrize("numbers", [True, False], ids=["numbers without an end", "everything else"])
def test_a_broker_among_strangers_still_hears_that_it_is_to_stop(tmp_path: Path, *, numbers: bool) -> None:
    with broker_process(tmp_path) as broker, crowd(broker.port, 8 if numbers else 200) as strangers:
        deeds = [
            struct.pack(">ihhi", 100 * MIB, 0, 8, 5) + bytes(MIB),
            framed(head(18, 0)) * 20_000,
            fetch(MIB, 2**31 - 1, 2**31 - 1),
            b"\0",
        ]
        if numbers:
            deeds = [framed(struct.pack(">hhih", 3, 9, 5, -1) + b"\xff" * 600_000)]
        for number, one in enumerate(strangers):
            pushed(one, deeds[number % len(deeds)])
        os.kill(broker.pid, signal.SIGTERM)
        assert broker.ended() == 0


@pytest.mark.parametrize(
    "body",
    [
        head(32, 1) + struct.pack(">i", 5_000) + struct.pack(">bhi", 4, 0, -1) * 5_000 + b"\x00",
        head(9, 1) + struct.pack(">h1si", 1, b"g", 1) + struct.pack(">h1si", 1, b"t", 4_900) + bytes(4) * 4_900,
    ],
    ids=["settings", "offsets"],
)
def test_what_is_asked_thousands_of_times_in_one_request_is_answered_once(
    broker: BrokerProcess, client: socket.socket, body: bytes
) -> None:
    with connected(broker.port) as stranger:
        stranger.sendall(framed(body))
        assert 0 < len(answer(stranger)) < 4_096
    assert asked(client) < DEADLINE_S / 6
