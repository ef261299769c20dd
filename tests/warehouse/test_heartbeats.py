from dataclasses import replace

import pytest
import sqlalchemy as sa

from domain.errors import Unavailable
from domain.health import Beat
from warehouse.control import Control
from warehouse.control_tables import metadata
from warehouse.heartbeats import Heartbeats

DATABASES = ("sqlite", "postgresql")
BEAT = Beat("trainer", "a", 7, "running", 2, {"features/0": 5}, 5, 90.5, 3, True, 100.25, 10.0, {"version": 4})


@pytest.fixture
def heartbeats(control):
    return Heartbeats(control)


def test_a_beat_comes_back_as_it_was_said(heartbeats):
    assert heartbeats.beat(BEAT)
    assert heartbeats.beats() == [BEAT]


def test_a_later_beat_of_the_same_instance_replaces_the_former(heartbeats):
    later = replace(BEAT, beat_at=101.0, lag=None, phase="draining")
    other = replace(BEAT, instance="b")
    for beat in (BEAT, other, later):
        assert heartbeats.beat(beat)
    assert heartbeats.beats() == [later, other]


def test_an_unknown_figure_is_null_and_not_a_failure(heartbeats):
    assert heartbeats.beat(replace(BEAT, detail={"skill": float("nan")}))
    assert heartbeats.beats()[0].detail == {"skill": None}


def test_a_beat_is_dropped_rather_than_waited_for(heartbeats, places):
    heartbeats.beat(BEAT)

    def hold(connection):
        connection.execute(sa.update(metadata.tables["heartbeats"]).values(pid=8))
        assert not heartbeats.beat(replace(BEAT, beat_at=200.0))
        assert heartbeats.beats() == [BEAT]

    with Control.open(places.control) as other:
        other.write(hold)
    assert heartbeats.beat(replace(BEAT, beat_at=300.0))


def test_a_database_out_of_reach_drops_the_beat_and_tells_the_reader(tmp_path):
    lost = Heartbeats(Control(f"sqlite:///{tmp_path}"))
    assert not lost.beat(BEAT)
    with pytest.raises(Unavailable):
        lost.beats()


def test_instances_long_gone_are_forgotten(heartbeats):
    heartbeats.beat(BEAT)
    heartbeats.beat(replace(BEAT, instance="b", beat_at=500.0))
    assert heartbeats.forget(before=400.0) == 1
    assert [beat.instance for beat in heartbeats.beats()] == ["b"]


def test_the_last_beat_of_a_service_stays_however_old_it_is(heartbeats):
    for instance, service, at in (("a", "trainer", 100.0), ("b", "trainer", 200.0), ("c", "ingest", 50.0)):
        heartbeats.beat(replace(BEAT, instance=instance, service=service, beat_at=at))
    assert heartbeats.forget(before=900.0) == 1
    assert [beat.instance for beat in heartbeats.beats()] == ["c", "b"]
