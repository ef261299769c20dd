"""What must hold of models: every number finite, and more skill than a simple average has."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.models import INITIAL
from assets.partitions import history_of, text_of
from assets.resources import Mill
from assets.verdicts import WARN, unjudged, verdict
from assets.versions import version_key
from domain.config import Project

if TYPE_CHECKING:
    from assets.card import Card
    from domain.fleet import Line

WINDOW_H = 168
"""Hours of event time that a line's skill is judged over: a week has all hours and all days in it."""

PREDICTABLE = frozenset({"volatility"})
"""Targets that a model must be shown to predict better than an average does.

Changes and directions of prices over minutes are close to unpredictable: of these it must only not be shown to be
worse by more than ``TOLERATED``, else the check would say for ever what everybody knows.
"""

TOLERATED = 0.01
"""Share of a simple forecast's loss that a model may lose where there is nothing to learn: weights are estimates."""


def model_checks(project: Project) -> list[dg.AssetChecksDefinition]:
    """Return the checks of ``initial_model`` and of each line's versions."""
    lines = [check(name) for name in project.instruments for check in (finite_weights, skillful)]
    return [finite(), beats_baseline(), *lines]


def finite() -> dg.AssetChecksDefinition:
    """Return check ``initial_model/finite``."""

    @dg.asset_check(
        asset=INITIAL,
        name="finite",
        blocking=True,
        description="The first version of every line loads (signature, digests, recorded answers) and every number in "
        "the state of its models is finite; else nothing is deployed on it.",
    )
    def check(mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        return _loads(mill, mill.project.instruments, newest=False)

    return check


def beats_baseline() -> dg.AssetChecksDefinition:
    """Return check ``initial_model/beats_baseline``."""

    @dg.asset_check(
        asset=INITIAL,
        name="beats_baseline",
        description="The first training, done once more without challengers: over the second half of history the "
        "champions' progressive skill against the best simple forecast, by its lower 95 % bound, is above 0 for "
        f"volatility, and elsewhere not shown to be below -{TOLERATED:.0%}.",
    )
    def check(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from assets.scorecard import training_card

        faults, found = list[str](), dict[str, float]()
        with mill.lake() as lake:
            for name in mill.project.instruments:
                context.log.info("training %s once more", name)
                history = history_of(mill.project, name)
                card = training_card(lake, mill.project, name, history.start, history.until)
                if card is None:
                    return unjudged(f"{name} has no example until {text_of(history.until)}; run job backfill")
                lacks, seen = skill_of(card)
                faults += [f"{name}: {fault}" for fault in lacks]
                found |= {f"{what} {name}": value for what, value in seen.items()}
        return verdict(faults, found, WARN) if found else unjudged("history is too short to tell skill from luck")

    return check


def finite_weights(instrument: str) -> dg.AssetChecksDefinition:
    """Return a line's check ``finite_weights``."""

    @dg.asset_check(
        asset=version_key(instrument),
        name="finite_weights",
        description="The newest version loads, and every number in the state of its models is finite.",
    )
    def check(mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        return _loads(mill, (instrument,), newest=True)

    return check


def skillful(instrument: str) -> dg.AssetChecksDefinition:
    """Return a line's check ``skillful``."""

    @dg.asset_check(
        asset=version_key(instrument),
        name="skillful",
        description=f"What was served in the {WINDOW_H} hours before the newest label beats the best simple forecast: "
        "the lower 95 % bound of its skill is above 0 for volatility, and elsewhere the upper one not below "
        f"-{TOLERATED:.0%}.",
    )
    def check(mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
        from assets.scorecard import served_card

        with mill.lake() as lake:
            card = served_card(lake, mill.project, instrument, WINDOW_H, None)
        if card is None:
            return unjudged(f"nothing that was served for {instrument} has an outcome yet")
        faults, found = skill_of(card)
        return verdict(faults, found, WARN) if found else unjudged("too few outcomes to tell skill from luck")

    return check


def skill_of(card: "Card") -> tuple[list[str], dict[str, float]]:
    """Return what a card lacks in skill, and the skills with their bounds; both empty where it has too few outcomes."""
    from domain.features import TARGETS

    faults, found = [], dict[str, float]()
    for k, target in enumerate(TARGETS):
        against = card.hardest(k)
        skill = card.skill(k, against)
        if skill is None:
            continue
        bounds = f"{skill.value:+.4f} against {against} ({skill.low:+.4f} to {skill.high:+.4f})"
        found |= {f"skill_{target}": skill.value, f"low_{target}": skill.low, f"high_{target}": skill.high}
        if target in PREDICTABLE and skill.low <= 0.0:
            faults.append(f"skill in {target} is not shown: {bounds}")
        elif skill.high < -TOLERATED:
            faults.append(f"worse than a simple forecast in {target}: {bounds}")
    return faults, found


def _loads(mill: Mill, instruments: tuple[str, ...], *, newest: bool) -> dg.AssetCheckResult:
    from domain.errors import ArtifactRefused
    from warehouse.keys import model_key
    from warehouse.registry import Registry
    from warehouse.roles import Roles

    faults, found = list[str](), dict[str, int]()
    with mill.control() as control:
        registry, casts = Registry(control, mill.places.models, model_key(mill.places)), Roles(control).all(instruments)
        for name in instruments:
            version = registry.newest(casts[name].champion) if newest else registry.first(name)
            if version is None:
                return unjudged(f"{name} has no version yet; run job train")
            found |= {f"version {name}": version.number, f"n_learned {name}": version.n_learned}
            try:
                line = registry.open(version).line
            except ArtifactRefused as error:
                faults.append(str(error))
                continue
            numbers, bad = unfinite(line)
            found[f"numbers {name}"] = numbers
            faults += [f"{name} version {version.number}: {member} is not finite" for member in bad]
    return verdict(faults, found)


def unfinite(line: "Line") -> tuple[int, list[str]]:
    """Return how many numbers the line's models hold, and the names of those arrays of theirs that are not finite.

    Notes
    -----
    A River estimator is opaque bytes; of one that serves the recorded answers, which were finite, are replayed when
    its version is opened. Scores and open questions hold NaN by right.
    """
    import numpy as np

    models = {
        name: array
        for name, array in line.arrays().items()
        if name.startswith(("model/", "frozen/", "guard/")) and array.dtype.kind == "f"
    }
    return sum(a.size for a in models.values()), [n for n, a in models.items() if not np.isfinite(a).all()]
