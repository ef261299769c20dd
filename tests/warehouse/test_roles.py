"""Roles on a real control database: who serves, who challenges, and that every decision follows the one before."""

from dataclasses import replace

import pytest

from domain.errors import BadState, UsageError
from warehouse.leases import Leases
from warehouse.roles import Roles
from warehouse.versions import VersionInfo

LINE, LATER, THIRD = "simulated:BTC-USD", "simulated:BTC-USD@2", "simulated:BTC-USD@3"
OTHER = "simulated:ETH-USD"
INFO = VersionInfo(kind="initial", watermark=9, n_learned=5, digest="d")


@pytest.fixture
def roles(control):
    return Roles(control)


@pytest.fixture
def versions(registry, control):
    """Publish the first version of each line: numbers 1, 2 and 3."""
    return [
        registry.publish(line, b"x", replace(INFO, digest=line), Leases(control).acquire(line, "trainer", 60))
        for line in (LINE, LATER, THIRD)
    ]


def parts(cast):
    return cast.champion, cast.challenger, cast.held


def test_where_nothing_was_decided_the_first_line_serves_its_newest(roles):
    cast = roles.of(LINE)
    assert parts(cast) == (LINE, None, None)
    assert (cast.id, cast.action) == (0, "begin")
    assert roles.all([LINE, OTHER]) == {LINE: cast, OTHER: roles.of(OTHER)}


@pytest.mark.usefixtures("versions")
def test_a_promotion_lets_challenger_and_champion_change_parts_and_can_be_taken_back(roles):
    assert parts(roles.challenge(LATER, "new fleet")) == (LINE, LATER, None)
    assert roles.of(LINE).lines == (LINE, LATER)
    assert parts(roles.promote(LINE, "better")) == (LATER, LINE, None)
    assert parts(roles.promote(LINE, "it was not")) == (LINE, LATER, None)
    assert roles.of(LINE).reason == "it was not"


@pytest.mark.usefixtures("versions")
def test_a_new_challenger_takes_the_place_of_the_former(roles):
    roles.challenge(LATER, "one")
    assert parts(roles.challenge(THIRD, "two")) == (LINE, THIRD, None)
    assert parts(roles.retire(LINE, "enough")) == (LINE, None, None)
    for verb in (roles.promote, roles.retire):
        with pytest.raises(UsageError, match="no challenger"):
            verb(LINE, "")


@pytest.mark.usefixtures("versions")
def test_a_held_version_is_held_until_it_is_released_or_something_is_promoted(roles):
    assert parts(roles.hold(LINE, 1, "bad day")) == (LINE, None, 1)
    assert parts(roles.challenge(LATER, "retrained")) == (LINE, LATER, 1), "a challenger changes nothing that serves"
    assert parts(roles.release(LINE, "good again")) == (LINE, LATER, None)
    roles.hold(LINE, 2, "a version of any line")
    assert parts(roles.promote(LINE, "better")) == (LATER, LINE, None)
    with pytest.raises(UsageError, match="already"):
        roles.release(LINE, "")


@pytest.mark.usefixtures("versions")
def test_what_makes_no_sense_is_refused_and_decides_nothing(roles):
    for wrong, why in (
        (lambda: roles.challenge(LINE, ""), "itself"),
        (lambda: roles.challenge(f"{LINE}@9", ""), "no version"),
        (lambda: roles.hold(LINE, 9, ""), "no version 9"),
        (lambda: roles.hold(OTHER, 1, ""), "no version 1"),
    ):
        with pytest.raises((UsageError, BadState), match=why):
            wrong()
    assert roles.since(0) == []


@pytest.mark.usefixtures("versions")
def test_a_cursor_sees_every_decision_once(roles):
    made = [roles.challenge(LATER, "a"), roles.promote(LINE, "b"), roles.hold(LINE, 1, "c"), roles.release(LINE, "d")]
    assert roles.since(0) == made
    assert roles.since(made[1].id) == made[2:]
    assert [cast.action for cast in made] == ["challenge", "promote", "hold", "release"]


def test_a_new_line_gets_a_name_that_none_has_had(roles, registry, control, versions):
    assert roles.next_line(LINE) == f"{LINE}@4"
    assert roles.next_line(OTHER) == f"{OTHER}@2"
