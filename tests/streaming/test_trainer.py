"""What the trainer says of its versions: how much is in none yet, since when, and by when it should be."""

from streaming.app import Context
from streaming.trainer import Trainer
from tests.chaos.mill_in_memory import LINE, Setting, Told, places_of
from warehouse.control import Control


class Hand:
    """A clock that is moved by hand."""

    now = 1_000.0

    def time_ns(self):
        return int(self.now * 1e9)

    def monotonic(self):
        return self.now


def opened(told, home, control, every_s):
    project = told.project.model_copy(
        update={"publish": told.project.publish.model_copy(update={"every_s": every_s, "examples": 10**6})}
    )
    trainer = Trainer(Context(project, places_of(home), control, told.transport, Hand(), instance="test"))
    trainer.open()
    return trainer


def test_a_version_is_due_so_long_after_the_oldest_example_that_is_in_none_was_learned(tmp_path):
    told = Told(Setting(bars=900))
    told.prepare(tmp_path / "home")
    with Control.open(places_of(tmp_path / "home").control) as control:
        trainer = opened(told, tmp_path / "home", control, every_s=30.0)
        clock = trainer._context.clock
        published = trainer.pulse().detail["published_at"][LINE]
        assert trainer.pulse().detail["unpublished"] == {LINE: 0}
        assert trainer.pulse().detail["due_at"] is None

        clock.now = 5_000.0  # a quiet hour: its first example is not an hour late
        learned = trainer.pulse().detail["n_learned"]
        while trainer.pulse().detail["n_learned"] == learned:
            trainer.work(0.0)
        clock.now = 5_010.0
        trainer.work(0.0)
        said = trainer.pulse().detail
        assert said["unpublished"] == {LINE: said["n_learned"] - learned}
        assert said["due_at"] == 5_030.0
        assert said["published_at"] == {LINE: published}

        clock.now = 5_031.0
        trainer.save()
        said = trainer.pulse().detail
        assert (said["unpublished"], said["due_at"]) == ({LINE: 0}, None)
        assert said["published_at"][LINE] >= published
        assert trainer.pulse().detail["version"] == {LINE: 2}
        trainer.close(clean=True)


def test_what_was_learned_just_after_a_version_is_in_the_next_though_nothing_more_comes(tmp_path):
    told = Told(Setting(bars=900))
    told.prepare(tmp_path / "home")
    with Control.open(places_of(tmp_path / "home").control) as control:
        trainer = opened(told, tmp_path / "home", control, every_s=1.0)
        while not trainer.pulse().detail["unpublished"][LINE]:
            trainer.work(0.0)
        clock = trainer._context.clock
        clock.now += 0.9
        trainer.save()
        assert trainer.pulse().detail["version"] == {LINE: 1}, "it is not due yet"
        clock.now += 0.1
        trainer.work(0.0)
        said = trainer.pulse().detail
        assert (said["version"], said["unpublished"], said["due_at"]) == ({LINE: 2}, {LINE: 0}, None)
        trainer.close(clean=True)


def test_where_versions_go_by_count_alone_none_is_ever_due(tmp_path):
    told = Told(Setting(bars=900))
    told.prepare(tmp_path / "home")
    with Control.open(places_of(tmp_path / "home").control) as control:
        trainer = opened(told, tmp_path / "home", control, every_s=0.0)
        while not trainer.pulse().detail["unpublished"][LINE]:
            trainer.work(0.0)
        assert trainer.pulse().detail["due_at"] is None
        trainer.close(clean=True)
