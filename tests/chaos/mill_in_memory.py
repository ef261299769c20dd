"""One line's whole input in memory, the version it starts from, and the digest of the model that nobody disturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from domain.checkpoint import Checkpoint
from domain.config import Model, Places, Project, Publish
from domain.fleet import Line
from domain.tape import merge
from domain.topics import FEATURES, FEATURES_WITH_TARGET
from streaming import codec
from streaming.app import Context, Turning
from streaming.memory import Memory
from streaming.trainer import Trainer
from tests.domain.samples import KEY, LINEAR, MINUTE, RLS, cut, rows_of, walk
from warehouse.control import Control
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo

LINE = "simulated:A"
HORIZON = 5 * MINUTE


def places_of(home: Path) -> Places:
    """Return a home whose versions are signed with the key of all tests."""
    return Places(home=home, model_key=KEY.decode())


@dataclass(frozen=True)
class Setting:
    """What a line lives through.

    Attributes
    ----------
    bars : length of its life; the first third is history
    every : examples between two versions
    """

    seed: int = 1
    bars: int = 3_000
    every: int = 20
    fleet: tuple[Model, ...] = (RLS, LINEAR)

    @property
    def project(self) -> Project:
        return Project(
            instruments=(LINE,),
            interval=MINUTE,
            horizon=HORIZON,
            publish=Publish(examples=self.every, every_s=0),
            fleet=self.fleet,
        )


class Told:
    """The line's input as a transport, its history as a first version, and its end as a digest."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.project = setting, setting.project
        asked, answered = rows_of(walk(setting.seed, setting.bars), HORIZON)
        self.seam = int(asked.ts[len(asked) // 3])
        history = merge(cut(asked, asked.ts <= self.seam), cut(answered, answered.available <= self.seam))
        later = cut(asked, asked.ts > self.seam), cut(answered, answered.available > self.seam)
        self.transport = Memory()
        self.transport.append((FEATURES, 0), codec.encode_vectors(LINE, later[0]))
        self.transport.append((FEATURES_WITH_TARGET, 0), codec.encode_examples(LINE, later[1], self.project.horizon_s))
        self.transport.identities((FEATURES, FEATURES_WITH_TARGET))  # before any fork: one log for all of them
        line = Line(LINE, setting.fleet)
        line.advance(history, self.seam)
        line.freeze()
        self.initial = Checkpoint(line, MINUTE, HORIZON, kind="initial", probes=asked.values[-64:])
        self.first = self.initial.to_bytes(KEY)
        self.first_info = VersionInfo.of(self.initial)
        whole = Checkpoint.from_bytes(self.first, KEY).line
        end = int(min(later[0].ts[-1], later[1].available[-1]))
        whole.advance(merge(*later), end)
        self.end, self.n_learned, self.digest = end, whole.n_learned, whole.digest()

    def prepare(self, home: Path) -> None:
        """Publish the first version in a new home."""
        home.mkdir(parents=True)
        places = places_of(home)
        with Control.open(places.control) as control:
            leases = Leases(control)
            lease = leases.acquire(LINE, "initial training", 60.0)
            Registry(control, places.models).publish(LINE, self.first, self.first_info, lease)
            leases.release(lease)

    def context(self, home: Path, control: Control) -> Context:
        """Return what a trainer in this home is given."""
        return Context(self.project, places_of(home), control, self.transport, instance="test", checkpoint_s=0.0)

    def train(self, home: Path, on_turn: Callable[[], object] = lambda: None) -> Trainer:
        """Run a trainer until the input is used up, and publish it; tell when it has loaded and after each turn."""
        with Control.open(places_of(home).control) as control:
            context = self.context(home, control)
            trainer = Trainer(context)
            trainer.open()
            on_turn()
            turning = Turning(trainer, context)
            while trainer.pulse().lag:
                turning.once(0.0)
                on_turn()
            trainer.save()
            trainer.close(clean=True)
            return trainer
