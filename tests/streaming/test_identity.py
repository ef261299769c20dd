"""The topics of a home are founded once; others in their place, or none, are refused."""

import pytest
from confluent_kafka.admin import AdminClient

from domain.config import Places
from domain.errors import BadState
from domain.topics import ALL
from streaming.identity import found_topics, look_at_topics
from tests.brokers import broker_process, one
from warehouse.beginning import begin
from warehouse.identity import identity_of, write

pytestmark = pytest.mark.kafka


@pytest.fixture
def broker(tmp_path):
    with broker_process(tmp_path / "home" / "broker") as process:
        yield process


@pytest.fixture
def places(broker, tmp_path):
    places = Places(home=tmp_path / "home", kafka_bootstrap_servers=broker.address)
    begin(places)
    return places


def test_topics_are_founded_once_and_known_again_at_the_broker_and_on_disk(places, broker):
    found_topics(places, ["a:B"])
    founded = identity_of(places.home)
    assert founded.topics.keys() == set(ALL)
    broker.kill()
    broker.start()
    found_topics(places, ["a:B", "a:C"])
    assert identity_of(places.home) == founded, "an instrument that joins changes no log"
    for looking in (places, Places(home=places.home)):
        assert look_at_topics(looking, founded).fault == ""


def test_a_topic_that_was_deleted_is_named_and_not_made_again(places):
    found_topics(places, ["a:B"])
    admin = AdminClient({"bootstrap.servers": places.bootstrap})
    one(admin.delete_topics(["features"]))
    with pytest.raises(BadState, match="are missing: features"):
        found_topics(places, ["a:B"])
    assert "features" not in admin.list_topics(timeout=10).topics


def test_another_broker_at_the_same_address_is_refused_until_the_topics_begin_again(places, broker):
    found_topics(places, ["a:B"])
    broker.kill()
    broker.wipe()
    broker.start()
    with pytest.raises(BadState, match="are missing"):
        found_topics(places, ["a:B"])
    stranger = places.model_copy(update={"home": places.home.parent / "stranger"})
    begin(stranger)
    found_topics(stranger, ["a:B"])
    with pytest.raises(BadState, match="are of another home or an earlier broker"):
        found_topics(places, ["a:B"])
    write(places.home, identity_of(places.home).without("topics"))
    found_topics(places, ["a:B"])
    assert identity_of(places.home).topics == identity_of(stranger.home).topics


def test_mills_that_share_a_broker_under_prefixes_have_topics_of_their_own(places):
    other = places.model_copy(update={"home": places.home.parent / "other", "kafka_topic_prefix": "other."})
    begin(other)
    for mill in (places, other):
        found_topics(mill, ["a:B"])
    ours, theirs = (identity_of(mill.home).topics for mill in (places, other))
    assert not set(ours.values()) & set(theirs.values())
    assert look_at_topics(other, identity_of(other.home)).fault == ""
