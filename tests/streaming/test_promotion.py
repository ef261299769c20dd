"""Champion and challenger over one log: they learn side by side, change parts while they run, and lose no step."""

import pytest

from assets.training import train_initial
from domain.checkpoint import Checkpoint
from domain.fleet import Line
from domain.tape import merge
from domain.topics import TRADES
from streaming.seam import safe_point
from streaming.trainer import Trainer
from tests.streaming.mill import NAMES, Mill, trades_of
from warehouse.features import read_table
from warehouse.lake import Lake
from warehouse.roles import Roles

pytestmark = pytest.mark.slow

N, CUT = 1_000, 600
LINE, LATER = NAMES[0], f"{NAMES[0]}@2"


@pytest.fixture
def mill(tmp_path):
    mill = Mill(tmp_path)
    feed(mill, 0, CUT)
    yield mill
    mill.close()


@pytest.fixture
def roles(mill):
    return Roles(mill.control)


@pytest.fixture
def challenger(mill, roles):
    """A line that was trained from what has landed, and the service that learns it."""
    retrain(mill, roles, LATER)
    service = Trainer(mill.context, "challenger")
    service.open()
    mill.services.append(service)
    turn(mill)
    return service


def retrain(mill, roles, line):
    with Lake.open(mill.places) as lake:
        landed = read_table(lake, "examples", NAMES[0], 0, 2**62).available[-1]
        train_initial(lake, mill.control, mill.context.registry, mill.project, line, 0, int(landed))
    roles.challenge(line, "test")


def feed(mill, start, end):
    for partition in range(len(NAMES)):
        mill.memory.append((TRADES, partition), trades_of(partition, N)[start:end])
    turn(mill)


def turn(mill):
    """Let a second pass twice: one to give lines up, one to take them."""
    for _ in range(2):
        mill.clock.now += 1.5
        mill.turn()


def lines_of(trainer):
    return {station.line.name: station.line.digest() for station in trainer._stations.values()}


def in_one_pass(mill, name):
    """Return the digest of a line that follows all that the lake holds, from its first version."""
    registry = mill.context.registry
    first = next(v for v in registry.since(0, 10_000) if v.line == name)
    line = registry.open(first).line
    with Lake.open(mill.places, read_only=True) as lake:
        vectors = read_table(lake, "features", NAMES[0], line.watermark, 2**62)
        examples = read_table(lake, "examples", NAMES[0], line.watermark, 2**62)
    until = int(min(vectors.ts[-1], examples.available[-1]))
    line.advance(merge(vectors, examples), until)
    return line.digest()


def test_a_challenger_catches_up_beside_the_champion_and_serves_nothing(mill, challenger):
    assert set(lines_of(challenger)) == {LATER}
    assert set(lines_of(mill.trainer)) == set(NAMES)
    feed(mill, CUT, 800)
    assert lines_of(challenger)[LATER] == in_one_pass(mill, LATER)
    assert lines_of(mill.trainer)[LINE] == in_one_pass(mill, LINE)
    assert mill.predictor.pulse().detail["line"][LINE] == LINE


def test_promoted_it_serves_at_once_and_the_trainers_exchange_their_lines(mill, roles, challenger):
    feed(mill, CUT, 800)
    roles.promote(LINE, "better")
    turn(mill)
    assert set(lines_of(mill.trainer)) == {LATER, NAMES[1]}
    assert set(lines_of(challenger)) == {LINE}
    assert mill.predictor.pulse().detail["line"][LINE] == LATER
    feed(mill, 800, N)
    for trainer, name in ((mill.trainer, LATER), (challenger, LINE)):
        assert lines_of(trainer)[name] == in_one_pass(mill, name), "no step lost or doubled in the exchange"
    newest = mill.context.registry.newest(LATER)
    assert mill.predictor.pulse().detail["version"][LINE] == newest.number
    assert newest.number != mill.context.registry.newest(LINE).number, "one count for both"


def test_restarted_between_decision_and_exchange_each_takes_the_line_of_its_part(mill, roles, challenger):
    feed(mill, CUT, 800)
    roles.promote(LINE, "better")
    for service in mill.services:
        service.close(clean=True)
    mill.open()
    again = Trainer(mill.context, "challenger")
    again.open()
    mill.services.append(again)
    feed(mill, 800, N)
    assert lines_of(mill.trainer)[LATER] == in_one_pass(mill, LATER)
    assert lines_of(again) == {LINE: in_one_pass(mill, LINE)}


def test_a_line_that_the_other_still_holds_is_waited_for(mill, roles, challenger):
    roles.promote(LINE, "better")
    mill.clock.now += 1.5
    mill.trainer.work(0.0)
    assert set(lines_of(mill.trainer)) == {NAMES[1]}, "given up, and the other one is not free yet"
    challenger.work(0.0)
    mill.trainer.work(0.0)
    assert set(lines_of(mill.trainer)) == {NAMES[1]}, "it looks once a second"
    turn(mill)
    assert set(lines_of(mill.trainer)) == {LATER, NAMES[1]}


def test_a_retired_challenger_is_given_up_and_a_new_one_taken_without_a_restart(mill, roles, challenger):
    roles.retire(LINE, "enough")
    turn(mill)
    assert lines_of(challenger) == {}
    assert challenger.pulse().ready
    retrain(mill, roles, f"{LINE}@3")
    feed(mill, CUT, 800)
    assert lines_of(challenger) == {f"{LINE}@3": in_one_pass(mill, f"{LINE}@3")}


def test_a_held_version_serves_whatever_is_published_until_it_is_released(mill, roles):
    registry = mill.context.registry
    old = registry.newest(LINE)
    feed(mill, CUT, 800)
    roles.hold(LINE, old.number, "a bad day")
    turn(mill)
    feed(mill, 800, 900)
    assert registry.newest(LINE).number > old.number, "learning goes on"
    assert mill.predictor.pulse().detail["version"][LINE] == old.number
    assert mill.predictor.pulse().detail["held"] == [LINE]
    roles.release(LINE, "over")
    turn(mill)
    assert mill.predictor.pulse().detail["version"][LINE] == registry.newest(LINE).number


def test_a_held_version_survives_a_restart_and_a_damaged_one_gives_way_to_the_good_one_before_it(mill, roles):
    registry = mill.context.registry
    feed(mill, CUT, 800)
    newest = registry.newest(LINE)
    roles.hold(LINE, newest.number, "")
    newest.path.write_bytes(b"torn")
    for service in mill.services:
        service.close(clean=True)
    mill.open()
    turn(mill)
    assert mill.predictor.pulse().detail["version"][LINE] == registry.before(newest).number


def test_a_version_of_a_line_is_no_version_of_its_sister(mill, challenger):
    """Their files may not change places, though they are of one instrument."""
    registry = mill.context.registry
    one, two = registry.newest(LINE), registry.newest(LATER)
    assert registry.manifest(one)["line"] == LINE
    assert registry.manifest(two)["line"] == LATER
    assert isinstance(registry.open(two), Checkpoint)
    assert Line(LATER, mill.project.fleet).instrument == LINE


def test_what_is_made_again_begins_where_champion_and_challenger_both_have_learned(mill, roles, challenger):
    registry = mill.context.registry
    feed(mill, CUT, 800)
    with Lake.open(mill.places) as lake:
        both = safe_point(registry, lake, roles.of(LINE), 0)
        assert both == min(registry.newest(LINE).watermark, registry.newest(LATER).watermark)
        for version in registry.since(0, 10_000):
            if version.line == LATER:
                version.path.write_bytes(b"torn")
        assert safe_point(registry, lake, roles.of(LINE), 0) == registry.newest(LINE).watermark
    challenger.close(clean=False)
    mill.services.remove(challenger)
