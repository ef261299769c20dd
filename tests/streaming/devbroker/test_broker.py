"""What happens in a broker as time goes by, told by a clock the test holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streaming.devbroker.broker import RETENTION_ROUND_S, Broker
from streaming.devbroker.members import Joining
from streaming.devbroker.offsets import Committed

SAID = Joining("", None, "c", "/h", 6.0, 60.0, "consumer", (("range", b""),), needs_id=False)


def test_a_silent_member_goes_and_an_empty_group_without_offsets_is_forgotten(tmp_path: Path) -> None:
    async def scene() -> None:
        broker = Broker(tmp_path, "never")
        broker.topics.create("t", 1, {})
        broker.offsets.commit("with offsets", {("t", 0): Committed(1, 0, "")})
        for name in ("with offsets", "without"):
            joined = broker.join(name, SAID, 0.0).result()
            broker.group(name).sync(joined.member_id, None, 1, {}, 0.0)
        broker.tick(6.0)
        assert all(group.members for group in broker.groups.values())
        broker.tick(6.0 + RETENTION_ROUND_S)
        assert not any(group.members for group in broker.groups.values())
        assert broker.group_names() == {"with offsets"}
        broker.close()

    asyncio.run(scene())


def test_old_segments_go_as_time_goes_by(tmp_path: Path, batch) -> None:
    broker = Broker(tmp_path, "never")
    broker.topics.create("t", 1, {"retention.ms": "1000"})
    log = broker.topics.log("t", 0)
    log.append(batch(3))
    broker.tick(0.0)
    assert (log.start, log.end) == (3, 3)
    broker.close()


def test_offsets_of_topics_that_a_crash_has_deleted_are_forgotten(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "never")
    broker.topics.create("t", 1, {})
    broker.offsets.commit("g", {("t", 0): Committed(1, 0, "")})
    broker.topics.delete("t")  # and the process died before it forgot the offsets
    broker.close()
    assert Broker(tmp_path, "never").offsets.groups == []


def test_a_producer_id_is_given_out_once_even_over_restarts(tmp_path: Path) -> None:
    given = []
    for _ in range(3):
        broker = Broker(tmp_path, "never")
        given += [broker.topics.new_producer() for _ in range(3)]
    assert len(set(given)) == len(given)
