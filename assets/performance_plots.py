"""Pictures of what served models are worth: skill, calibration, loss by model age and over versions, for each line.

Each is drawn once, as a figure, and put into Dagster small and into the report large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from assets.plots import figure_of
from domain.features import TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from assets.card import Bin, Card

UNITS = {"price_change": "price change, bp", "direction": "share that rose", "volatility": "volatility, log bp"}
LOSSES = {"price_change": "squared error, bp²", "direction": "log loss", "volatility": "squared error"}

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
_DAY = "datetime64[ns]"


def skills(cards: Sequence[Card], note: str) -> Figure:
    """Draw the skill against every yardstick, with 95 % intervals: a panel a target, a colour a line."""
    figure = figure_of(9.0, 3.2)
    axes = figure.subplots(1, len(TARGETS))
    for k, (target, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        names = list(dict.fromkeys(name for card in cards for name in card.yardsticks))
        for c, card in enumerate(cards):
            for y, name in enumerate(names):
                skill = card.skill(k, name) if name in card.yardsticks else None
                if skill is None:
                    continue
                at = y + 0.18 * (c - (len(cards) - 1) / 2)
                reach = [[skill.value - skill.low], [skill.high - skill.value]]
                axis.errorbar([at], [skill.value], yerr=reach, fmt="o", ms=4, color=_colour(c), capsize=2)
            axis.plot([], [], "o", ms=4, color=_colour(c), label=card.instrument)
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_xlim(-0.6, len(names) - 0.4)
        _zero(axis, target)
    axes[0].set_ylabel("skill, above 0 is better", fontsize=8)
    return _finished(figure, axes[0], f"skill of what was served, with 95 % intervals\n{note}")


def calibration(cards: Sequence[Card], note: str) -> Figure:
    """Draw what happened over what was said, by tenths of the predictions: on the dashed line they are calibrated."""
    figure = figure_of(9.0, 3.4)
    axes = figure.subplots(1, len(TARGETS))
    for k, (target, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        for c, card in enumerate(cards):
            _draw(axis, card.reliability(k), c, card.instrument)
        ends = [min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])]
        within = axis.get_xlim()
        axis.plot(ends, ends, color="grey", lw=0.9, ls="--")
        axis.set_xlim(within)
        axis.set_xlabel(f"said: {UNITS[target]}", fontsize=8)
        _tidy(axis, target)
    axes[0].set_ylabel("happened", fontsize=8)
    return _finished(figure, axes[0], f"calibration: mean outcome by tenths of the predictions\n{note}")


def ages(cards: Sequence[Card], interval_s: float, note: str) -> Figure:
    """Draw the loss by the age of the model that answered, minutes of event time."""
    figure = figure_of(9.0, 3.2)
    axes = figure.subplots(1, len(TARGETS))
    for k, (target, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        for c, card in enumerate(cards):
            _draw(axis, card.by_age(k, interval_s), c, card.instrument, per=60.0)
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_xlim(left=0.0)
        axis.xaxis.set_major_formatter(lambda value, _at: f"{value:g}")
        axis.set_xlabel("model age, min", fontsize=8)
        axis.set_ylabel(LOSSES[target], fontsize=8)
        _tidy(axis, target)
    return _finished(figure, axes[0], f"loss by model age: event time since the newest label it knew\n{note}")


def versions(cards: Sequence[Card], note: str) -> Figure:
    """Draw the skill of ranges of versions over time, against the simple forecast that is best in the whole window."""
    figure = figure_of(9.0, 1.9 * len(TARGETS) + 0.8)
    axes = figure.subplots(len(TARGETS), 1, sharex=True)
    for k, (target, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        for c, card in enumerate(cards):
            ranges = card.ranges()
            at = np.array([r.until for r in ranges]).astype(_DAY)
            skill = [1.0 - r.loss[k] / r.baseline[k] if r.baseline[k] > 0.0 else np.nan for r in ranges]
            axis.plot(at, skill, "o-", ms=2.5, lw=0.9, color=_colour(c), label=f"{card.instrument}, {card.hardest(k)}")
        _zero(axis, "")
        axis.set_ylabel(f"skill, {target}", fontsize=8)
        axis.legend(fontsize=7, ncols=len(cards), loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    axes[-1].tick_params(axis="x", labelsize=7)
    figure.suptitle(f"skill of ranges of versions against the best simple forecast\n{note}", fontsize=9)
    return figure


def _draw(axis: Axes, bins: Sequence[Bin], c: int, label: str, per: float = 1.0) -> None:
    at, found = [b.at / per for b in bins], [b.found for b in bins]
    reach = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
    values = [f.value for f in found]
    axis.errorbar(at, values, yerr=reach, fmt="o-", ms=3, lw=0.8, capsize=2, color=_colour(c), label=label)


def _colour(c: int) -> str:
    return _COLOURS[c % len(_COLOURS)]


def _zero(axis: Axes, title: str) -> None:
    axis.axhline(0.0, color="black", lw=0.8)
    _tidy(axis, title)


def _tidy(axis: Axes, title: str) -> None:
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)
    axis.set_title(title, fontsize=9)


def _finished(figure: Figure, axis: Axes, title: str) -> Figure:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure
