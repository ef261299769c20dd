"""A full disk: every service stops with one clear line, goes on by itself when there is space, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time

import numpy as np
import pyarrow as pa
import pytest

from domain.bars import BAR_COLUMNS
from domain.config import Places
from domain.errors import BadState, Unavailable
from domain.events import NANOS_PER_MINUTE
from domain.tables import BarTable
from orchestration.differences import compare
from tests.brokers import broker_process, one
from tests.chaos.conftest import elsewhere
from warehouse.control import Control
from warehouse.lake import Lake
from warehouse.landing import insert
from warehouse.tables import bars_to_rows

FULL_S = 8.0
"""How long it stays full: every service meets it, some of them several times."""


class Disk:
    """A small file system in memory."""

    def __init__(self, path):
        self.path = path
        self.ballast = path / "ballast"

    def fill(self):
        """Leave no byte."""
        with contextlib.suppress(OSError), self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        assert os.statvfs(self.path).f_bavail == 0

    def free(self):
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small file system with")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_services_on_a_full_disk_stop_in_one_line_and_go_on_when_there_is_space(undisturbed, wild, disturbed, disk):
    home, logs = disk.path / "home", wild.places.home / "logs"
    home.mkdir()
    logs.mkdir()
    (home / "services").symlink_to(logs)  # what the services say must not be lost with the rest
    config = wild.places.config
    filled_at = []

    def act(deployment, beats):
        if not filled_at and any(
            b.service == "trainer" and b.detail.get("n_learned", 0) > 1_200 for b in beats.beats()
        ):
            disk.fill()
            filled_at.append(time.monotonic())
        if filled_at and disk.ballast.exists():
            if time.monotonic() - filled_at[0] < FULL_S:
                disk.fill()  # what the services let go of
                return True
            disk.free()
        return not filled_at

    planned = elsewhere(wild, home=home, config=config)
    disturbed(planned, act)
    calm, _ = undisturbed
    assert filled_at
    assert compare(calm.places, planned.places, calm.project).differences == []
    said = {path.parent.name: path.read_text() for path in logs.glob("*/log")}
    assert {name for name, text in said.items() if "Traceback" in text} == set()
    assert any("full" in text or "No space left" in text for text in said.values()), "nobody noticed"
    assert not list(home.glob("models/*/.*")), "staged artifacts pile up"


def test_a_full_control_database_is_named_and_takes_rows_again_when_there_is_space(disk):
    with Control.open(f"sqlite:///{disk.path / 'control.sqlite'}") as control:
        control.count_dead_letter("trainer", "schema")
        disk.fill()
        with pytest.raises(Unavailable, match="full"):
            count_for_ever(control)
        before = control.dead_letters()
        disk.free()
        control.count_dead_letter("trainer", "schema")
        assert control.dead_letters()["trainer", "schema"] == before["trainer", "schema"] + 1


def count_for_ever(control):
    while True:
        control.count_dead_letter("trainer", "schema")


def test_a_full_lake_lands_nothing_of_a_write_and_all_of_the_next(disk):
    values = np.random.default_rng(1).random((200_000, len(BAR_COLUMNS)))
    rows = bars_to_rows("a:B", BarTable(np.arange(1, 200_001) * NANOS_PER_MINUTE, values), "live")
    with Lake.open(Places(home=disk.path / "home")) as lake:
        disk.fill()
        with pytest.raises((BadState, Unavailable), match="full"):
            lake.write(lambda c: insert(c, "bars", rows))
        disk.free()
        assert lake.query("SELECT count(*) AS n FROM bars")["n"][0].as_py() == 0
        lake.write(lambda c: insert(c, "bars", rows))
        assert lake.query("SELECT count(*) AS n FROM bars")["n"] == pa.chunked_array([[200_000]])


def test_a_full_broker_refuses_and_the_producer_delivers_when_there_is_space(disk):
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    delivered = []
    with broker_process(disk.path / "broker") as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})  # it must outlive its answer
        one(admin.create_topics([NewTopic("t", 1)]))
        producer = Producer({"bootstrap.servers": broker.address, "enable.idempotence": True, "linger.ms": 0})
        producer.produce("t", b"first", partition=0)
        assert producer.flush(20) == 0
        disk.fill()
        for number in range(100):
            producer.produce(
                "t", bytes([number]) * 10_000, partition=0, on_delivery=lambda e, m: delivered.append((e, m))
            )
        assert producer.flush(3) > 0, "the broker took what its disk did not"
        disk.free()
        assert producer.flush(30) == 0
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "auto.offset.reset": "earliest"})
        assert consumer.get_watermark_offsets(TopicPartition("t", 0), timeout=10) == (0, 101)
        consumer.close()
    assert [error for error, _ in delivered] == [None] * 100
    assert [message.offset() for _, message in delivered] == list(range(1, 101))


def test_the_disk_of_these_tests_is_really_full(disk):
    disk.fill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (disk.path / "one-more").write_bytes(bytes(100_000))
    disk.free()
    (disk.path / "one-more").write_bytes(bytes(100_000))
