"""The broker as a process: who it lets in, what it refuses, what survives it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from domain.errors import BadState, UsageError
from streaming.devbroker.batches import header_at
from streaming.devbroker.server import serve
from tests.brokers import ROOT, broker_process

DEADLINE_S = 20.0
SET = AlterConfigOpType.SET
QUIET = {"logger": None, "log_level": 0}


def create(address: str, name: str, partitions: int = 1, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
        done.result(DEADLINE_S)


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "streaming.devbroker", "--data", str(data), *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


class TestRefusals:
    @pytest.mark.kafka
    def test_a_second_broker_on_the_same_directory(self, tmp_path: Path) -> None:
        with broker_process(tmp_path) as broker:
            second = command(tmp_path, "--port", "0")
            assert second.returncode == 2
            assert re.fullmatch(rf"error: .* in use by another dev broker \(process {broker.pid}\).*\n", second.stderr)
            assert AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=DEADLINE_S).brokers

    @pytest.mark.kafka
    def test_a_port_that_is_taken(self, tmp_path: Path) -> None:
        with broker_process(tmp_path / "one") as broker:
            second = command(tmp_path / "two", "--port", str(broker.port))
        assert second.returncode == 2
        assert re.fullmatch(rf"error: port {broker.port} of 127.0.0.1 is taken.*\n", second.stderr)

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])  # noqa: S104
    def test_an_address_other_machines_can_reach(self, tmp_path: Path, host: str) -> None:
        with pytest.raises(UsageError, match=r"listens on 127\.0\.0\.1 or ::1 only$"):
            serve(tmp_path, host, 0, "never")

    def test_an_unknown_policy(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="one of never, interval, always"):
            serve(tmp_path, "127.0.0.1", 0, "sometimes")

    def test_a_directory_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="cannot be a data directory"):
            serve(tmp_path / "file", "127.0.0.1", 0, "never")

    def test_a_catalog_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "catalog.json").write_text("{")
        with pytest.raises(BadState, match="cannot be read"):
            serve(tmp_path, "127.0.0.1", 0, "never")
        assert (tmp_path / "catalog.json").read_text() == "{"

    def test_transactions(self, bootstrap: str) -> None:
        producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "t"})
        with pytest.raises(KafkaException) as caught:
            producer.init_transactions(DEADLINE_S)
        assert caught.value.args[0].fatal()
        assert caught.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED

    def test_the_newer_group_protocol(self, bootstrap: str) -> None:
        member = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "group.protocol": "consumer", **QUIET})
        member.subscribe(["t"])
        message = member.poll(DEADLINE_S)
        assert message is not None
        assert message.error().code() == KafkaError._FATAL
        assert "version not supported" in message.error().str()
        member.close()

    def test_what_no_client_of_ours_needs(self, bootstrap: str, topic: Callable[[], str]) -> None:
        """The broker does not offer these requests, so the client itself refuses them at once."""
        admin, name = AdminClient({"bootstrap.servers": bootstrap, **QUIET}), topic()
        change = ConfigResource(
            ResourceType.TOPIC, name, incremental_configs=[ConfigEntry("retention.ms", "1", incremental_operation=SET)]
        )
        for asked in (admin.delete_records([TopicPartition(name, 0, 1)]), admin.incremental_alter_configs([change])):
            (future,) = asked.values()
            with pytest.raises(KafkaException) as caught:
                future.result(DEADLINE_S)
            assert caught.value.args[0].code() == KafkaError._UNSUPPORTED_FEATURE


@pytest.mark.kafka
def test_codecs_are_stored_as_they_came(tmp_path: Path) -> None:
    with broker_process(tmp_path) as broker:
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            create(broker.address, codec)
            producer = Producer({"bootstrap.servers": broker.address, "compression.type": codec})
            producer.produce(codec, b"squeeze " * 1000)
            assert producer.flush(DEADLINE_S) == 0
    for number, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
        (log,) = (tmp_path / "topics").glob(f"{codec}.*/0/*.log")
        assert header_at(log.read_bytes()).codec == number


@pytest.mark.kafka
def test_a_stopped_broker_ends_well_and_takes_its_address_with_it(tmp_path: Path) -> None:
    with broker_process(tmp_path) as broker:
        reader = Consumer({"bootstrap.servers": broker.address, "group.id": "g", **QUIET})
        create(broker.address, "t")
        reader.subscribe(["t"])
        reader.poll(0.5)
        assert broker.stop() == 0
        assert not (tmp_path / "address").exists()
        reader.close()


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("end", "fsync"), [("stop", "never"), ("kill", "never"), ("kill", "interval"), ("kill", "always")]
)
def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path, end: str, fsync: str, read) -> None:
    with broker_process(tmp_path, "--fsync", fsync) as broker:
        create(broker.address, "kept", 2, **{"retention.ms": "777777"})
        admin = AdminClient({"bootstrap.servers": broker.address, **QUIET})
        cluster = admin.list_topics(timeout=DEADLINE_S).cluster_id
        producer = Producer({"bootstrap.servers": broker.address, **QUIET})
        for number in range(1000):
            producer.produce("kept", str(number), partition=number % 2)
        assert producer.flush(DEADLINE_S) == 0
        settings = {"bootstrap.servers": broker.address, "group.id": "g", "auto.offset.reset": "error", **QUIET}
        committer = Consumer(settings)
        committer.commit(offsets=[TopicPartition("kept", 1, 123, "words")], asynchronous=False)
        committer.close()
        catalog = json.loads((tmp_path / "catalog.json").read_text())
        getattr(broker, end)()
        broker.start()
        again = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=DEADLINE_S)
        assert again.cluster_id == cluster
        assert json.loads((tmp_path / "catalog.json").read_text())["topics"] == catalog["topics"]
        reader = Consumer(settings)
        (committed,) = reader.committed([TopicPartition("kept", 1)], timeout=DEADLINE_S)
        assert (committed.offset, committed.metadata) == (123, "words")
        reader.assign([TopicPartition("kept", 0, 0), TopicPartition("kept", 1, 0)])
        assert sorted(int(message.value()) for message in read(reader, 1000)) == list(range(1000))
        reader.close()


@pytest.mark.kafka
def test_what_a_crash_left_of_a_deleted_topic_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / "topics" / "gone.0123" / "0"
    left.mkdir(parents=True)
    (left / f"{0:020d}.log").write_bytes(b"x")
    with broker_process(tmp_path):
        assert not left.parent.exists()


@pytest.mark.kafka
def test_a_torn_tail_costs_only_what_was_never_acknowledged(tmp_path: Path, read) -> None:
    with broker_process(tmp_path) as broker:
        create(broker.address, "t")
        producer = Producer({"bootstrap.servers": broker.address, **QUIET})
        for number in range(100):
            producer.produce("t", str(number))
        assert producer.flush(DEADLINE_S) == 0
        broker.kill()
        (log,) = (tmp_path / "topics").glob("t.*/0/*.log")
        whole = log.read_bytes()
        log.write_bytes(whole + whole[: len(whole) // 2])
        broker.start()
        producer.produce("t", b"100")
        assert producer.flush(DEADLINE_S) == 0
        reader = Consumer({"bootstrap.servers": broker.address, "group.id": "g", **QUIET})
        reader.assign([TopicPartition("t", 0, 0)])
        assert [int(message.value()) for message in read(reader, 101)] == list(range(101))
        reader.close()


@pytest.mark.kafka
def test_its_figures_are_told_every_second(tmp_path: Path) -> None:
    script = f"""
import json, os, signal
from pathlib import Path
from streaming.devbroker.server import serve
told = []
def tick(figures):
    told.append(figures)
    if len(told) == 2:
        print(json.dumps(told[-1]))
        os.kill(os.getpid(), signal.SIGTERM)
serve(Path({str(tmp_path)!r}), "127.0.0.1", 0, "never", on_ready=print, on_tick=tick)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    address, figures = ran.stdout.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    assert {"connections", "partitions", "bytes"} <= set(json.loads(figures))
