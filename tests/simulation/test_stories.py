"""Named days of 24 hours end as if nothing had happened."""

import pytest

from domain.topics import FEATURES, FEATURES_WITH_TARGET
from tests.simulation.invariants import Violation
from tests.simulation.mishaps import Mishaps, good_line
from tests.simulation.stories import STORIES
from tests.simulation.world import Setting, opened


@pytest.mark.parametrize("candles", [False, True], ids=["trades", "candles"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_day_ends_as_if_nothing_had_happened(story, candles):
    with opened(Setting(seed=7, candles=candles)) as world:
        story(world, Mishaps(world))
        world.drain()
        assert world.judge.proven >= world.market.minutes - 2 - len(world.excused["simulated:AAA"])


def test_unread_records_that_expire_are_a_hole_that_is_said_and_never_a_stall():
    with opened(Setting(seed=8)) as world:
        world.until(0.3 * world.length_s)
        world.process("trainer").stop()
        world.process("trainer").due = 0.6 * world.length_s
        world.until(0.5 * world.length_s)
        learned = good_line(world, "simulated:AAA").n_learned
        for topic in (FEATURES, FEATURES_WITH_TARGET):
            world.broker.expire((topic, 0), world.broker.end((topic, 0)))
        with pytest.raises(Violation, match="each matured label is learned once"):
            world.until(world.length_s)
        assert "resuming by watermark" in world.trace.words
        assert any("have expired" in line for line in world.trace.lines)
        assert world.registry.newest("simulated:AAA").n_learned > learned
