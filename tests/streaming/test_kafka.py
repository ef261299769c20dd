"""Reading from a real broker: explicit offsets, the newest good record behind any rubbish, and clear refusals."""

import os
import signal
import time
import uuid

import pytest
from confluent_kafka.admin import AdminClient

from domain.config import Places
from domain.errors import BadState, Unavailable
from domain.topics import ALL, BY_INSTRUMENT
from streaming import codec
from streaming.clock import SystemClock
from streaming.gate import newest_trade
from streaming.kafka import Kafka, Reader, Writer, ends
from streaming.topics import create_topics, delete_topics
from streaming.transport import find
from tests.brokers import broker_process, running_broker

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module", params=["dev", "apache"])
def address(request, tmp_path_factory):
    if request.param == "apache":
        yield request.getfixturevalue("apache").address
        return
    with running_broker(tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="module")
def places(address):
    made = Places(kafka_bootstrap_servers=address, kafka_topic_prefix=f"test-{uuid.uuid4().hex[:8]}.")
    create_topics(made, ["a:B", "a:C"])
    yield made
    delete_topics(made)


def trade(n):
    return b'{"instrument":"a:B","ts_event":%d,"trade_id":%d,"price":1.0,"size":1.0,"side":1}' % (n, n)


def fill(places, topic, partition, values):
    writer = Writer(places)
    writer.send(topic, partition, "a:B", values)
    writer.flush()


def test_topics_have_a_partition_an_instrument_and_grow_when_one_is_added(places):
    create_topics(places, ["a:B", "a:C"])
    create_topics(places, ["a:B", "a:C", "a:D"])
    keys = [(topic, 2) for topic in BY_INSTRUMENT] + [("dead_letters", 0)]
    assert ends(places, keys) == dict.fromkeys(keys, (0, 0))
    assert len(ALL) == len(BY_INSTRUMENT) + 1


def test_the_newest_good_record_is_found_behind_any_amount_of_rubbish(places):
    assert newest_trade(Kafka(places), SystemClock(), ("trades", 0), 60 * 10**9) is None
    fill(places, "trades", 0, [b"rubbish"] * 3)
    assert newest_trade(Kafka(places), SystemClock(), ("trades", 0), 60 * 10**9) is None
    fill(places, "trades", 0, [*map(trade, range(1, 40)), *[b"\xff\xfe"] * 300])
    assert newest_trade(Kafka(places), SystemClock(), ("trades", 0), 60 * 10**9).trade_id == 39


@pytest.mark.parametrize("answered", [0, 1, 57, 199, 200])
def test_a_search_finds_the_first_newer_record_and_rubbish_never_makes_it_skip_one(places, answered):
    if ends(places, [("features", 0)])["features", 0][1] == 0:
        fill(places, "features", 0, [b'{"ts_event":%d}' % n if n % 7 else b"rubbish" for n in range(1, 201)])
    low, high = ends(places, [("features", 0)])["features", 0]
    found = find(Kafka(places), SystemClock(), ("features", 0), low, lambda value: codec.event_time(value) > answered)
    skipped = [n for n in range(low + 1, found + 1) if n % 7]  # record n stands at offset n - 1
    assert all(n <= answered for n in skipped)
    assert found <= high


def test_a_reader_starts_where_it_is_told_and_knows_how_far_behind_it_is(places):
    fill(places, "bars", 1, [b"%d" % n for n in range(10)])
    reader = Reader(places, "test", {("bars", 1): 4})
    values, until = [], time.monotonic() + 10
    while len(values) < 6 and time.monotonic() < until:
        for records in reader.poll(0.2):
            assert records.offsets == list(range(records.offsets[0], records.offsets[0] + len(records.offsets)))
            values += records.values
    assert values == [b"%d" % n for n in range(4, 10)]
    assert reader.position == {("bars", 1): 10}
    assert reader.lag() == 0
    reader.close()


def test_an_offset_that_the_log_does_not_have_is_refused_not_replaced(places):
    reader = Reader(places, "test", {("bars", 0): 99})
    with pytest.raises(Unavailable, match="checkpoint"):
        reader.poll(10.0)
    reader.close()


def test_two_mills_share_a_broker_under_two_prefixes(address, places):
    other = places.model_copy(update={"kafka_topic_prefix": f"other-{uuid.uuid4().hex[:8]}."})
    create_topics(other, ["a:B"])
    fill(other, "predictions", 0, [b"x"] * 3)
    assert ends(other, [("predictions", 0)]) == {("predictions", 0): (0, 3)}
    assert ends(places, [("predictions", 0)]) == {("predictions", 0): (0, 0)}
    logs = [Kafka(mill).identities(ALL) for mill in (places, other)]
    assert not set(logs[0].values()) & set(logs[1].values())
    assert set(logs[0]) == set(logs[1]) == set(ALL)
    delete_topics(other)
    names = set(AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).topics)
    assert not [name for name in names if name.startswith(other.kafka_topic_prefix)]
    assert {places.kafka_topic_prefix + name for name in ALL} <= names


def test_topics_made_anew_have_other_identities(places):
    mill = places.model_copy(update={"kafka_topic_prefix": f"anew-{uuid.uuid4().hex[:8]}."})
    found = []
    for _ in range(2):
        create_topics(mill, ["a:B"])
        found.append(Kafka(mill).identities(ALL))
        delete_topics(mill)
    assert not set(found[0].values()) & set(found[1].values())


def test_topics_without_a_prefix_are_never_deleted(address):
    with pytest.raises(BadState, match="by hand"):
        delete_topics(Places(kafka_bootstrap_servers=address))


def test_a_broker_that_is_not_there_is_one_clear_line():
    with pytest.raises(Unavailable, match=r"no Kafka broker at 127\.0\.0\.1:1"):
        create_topics(Places(kafka_bootstrap_servers="127.0.0.1:1"), ["a:B"], deadline_s=0.5)


def test_behind_a_frozen_broker_the_lag_is_unknown_and_known_again_when_it_goes_on(tmp_path):
    """The client keeps the last end it heard of; lag 0 would say that the answers are fresh."""
    with broker_process(tmp_path / "broker") as broker:
        places = Places(kafka_bootstrap_servers=broker.address)
        create_topics(places, ["a:B"])
        reader = Kafka(places).reader("test", {("features", 0): 0})

        def lag_is(wanted):
            until = time.monotonic() + 60
            while reader.lag() != wanted:
                assert time.monotonic() < until, f"the lag stays {reader.lag()}"
                reader.poll(0.1)

        try:
            lag_is(0)
            os.kill(broker.pid, signal.SIGSTOP)
            lag_is(None)
            os.kill(broker.pid, signal.SIGCONT)
            lag_is(0)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
            reader.close()
