"""Named days: what is done when, instead of what a seed would do."""

from __future__ import annotations

from collections.abc import Callable

from domain.topics import FEATURES, FEATURES_WITH_TARGET
from tests.simulation.mishaps import Mishaps
from tests.simulation.world import World

Story = Callable[[World, Mishaps], None]


def midnight_with_a_backfill_beside_the_stream(world: World, mishaps: Mishaps) -> None:
    """Day after day is made again from history while its last rows land."""
    for hour in range(2, 25, 2):
        world.until(world.length_s * hour / 24)
        mishaps.do("backfill")


def a_topic_is_deleted_while_the_trainer_is_down(world: World, mishaps: Mishaps) -> None:
    """What the trainer had not read is made again, and it goes on by its watermark."""
    world.until(0.4 * world.length_s)
    trainer = world.process("trainer")
    trainer.stop()
    trainer.due = 0.6 * world.length_s
    world.until(0.5 * world.length_s)
    mishaps.make_anew(FEATURES)
    mishaps.make_anew(FEATURES_WITH_TARGET)
    world.until(world.length_s)
    assert "resuming by watermark" in world.trace.words


def a_zombie_trainer_wakes_up_and_wants_to_publish(world: World, mishaps: Mishaps) -> None:
    """Again and again a trainer sleeps past its lease, another takes over, and the sleeper wakes."""
    for share in (0.2, 0.4, 0.6, 0.8):
        world.until(share * world.length_s)
        mishaps.zombie()
        copy = world.processes[-1]
        world.until(world.process("trainer").due + 20.0)
        if copy in world.processes and "+" in copy.name:
            world.remove(copy)
    world.until(world.length_s)
    assert ("trainer", "LeaseLost") in {(kind, error) for kind, error, _ in world.stops}


def two_restarts_in_a_row_without_progress(world: World, mishaps: Mishaps) -> None:
    """Every service dies at its first call after a start, twice, and then lives."""
    for share in (0.3, 0.6):
        world.until(share * world.length_s)
        for calls in (0, 3):
            for process in world.processes:
                process.vanish("crash")
                world.fuses.burning[process.name] = calls
            world.until(world.clock.now + 30.0)
            assert not world.fuses.burning
    world.until(world.length_s)


def everything_loses_power_at_once(world: World, mishaps: Mishaps) -> None:
    """The ends of the logs go with it; files and databases stay."""
    for share in (0.25, 0.5, 0.75):
        world.until(share * world.length_s - 15.0)
        world.broker.sync()
        world.until(share * world.length_s)
        mishaps.lose_power()
    world.until(world.length_s)


def retention_expires_what_everybody_has_done_with(world: World, mishaps: Mishaps) -> None:
    """Logs begin later and later, services restart behind and before their beginnings."""
    for hour in range(4, 25, 2):
        world.until(world.length_s * hour / 24)
        mishaps.expire()
        world.process(("featurizer", "trainer", "lander", "predictor", "ingest")[hour // 2 % 5]).stop()
    world.until(world.length_s)
    assert world.broker.starts[FEATURES, 0] > 0


STORIES: tuple[Story, ...] = (
    midnight_with_a_backfill_beside_the_stream,
    a_topic_is_deleted_while_the_trainer_is_down,
    a_zombie_trainer_wakes_up_and_wants_to_publish,
    two_restarts_in_a_row_without_progress,
    everything_loses_power_at_once,
    retention_expires_what_everybody_has_done_with,
)
