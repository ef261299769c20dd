"""Pictures where looking beats reading: small PNGs inside Markdown, drawn from numbers already at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from domain.events import NANOS_PER_SECOND
from domain.tables import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 100_000
"""Bytes of Markdown: every materialization keeps its picture in Dagster's database for good."""

Hours = Mapping[str, tuple[Ints, Floats]]


def markdown_of(figure: Figure) -> str:
    """Return the figure as Markdown with the picture inside, at most ``LIMIT`` bytes."""
    for dpi in (80, 60, 40, 20):
        text = f"![]({uri_of(figure, dpi)})"
        if len(text) <= LIMIT:
            return text
    return "The picture is too large to keep."


def uri_of(figure: Figure, dpi: int) -> str:
    """Return the figure as a ``data:`` URI: the picture itself where others have a link."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def lines(hours: Hours, panels: Sequence[tuple[int, str]], note: str) -> str:
    """Draw columns over time, a panel each and a line an instrument.

    Parameters
    ----------
    hours : per instrument, times int64[h] (ns) and values float64[h, columns]
    panels : which columns, and what to call them
    note : the title: what is shown, and whether it is simulated
    """
    figure = figure_of(8.0, 2.0 * len(panels) + 0.4)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (column, label) in zip(axes, panels, strict=True):
        for name, (ts, values) in hours.items():
            # Prices of instruments differ by orders of magnitude: each starts at 100.
            scale = 100.0 / values[0, column] if label.endswith("= 100") else 1.0
            axis.plot(_moments(ts), values[:, column] * scale, lw=1.0, label=name)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_title(note, fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return markdown_of(figure)


def heat(hours: Hours, names: Sequence[str], note: str) -> str:
    """Draw every column over time as a colour: its distance from its own mean, in standard deviations."""
    figure = figure_of(8.0, 3.2 * len(hours) + 0.4)
    axes = figure.subplots(len(hours), 1, squeeze=False)[:, 0]
    for axis, (name, (ts, values)) in zip(axes, hours.items(), strict=True):
        deviation = values.std(axis=0)
        z = (values - values.mean(axis=0)) / np.where(deviation > 0.0, deviation, 1.0)
        extent = (0.0, (ts[-1] - ts[0]) / (86_400 * NANOS_PER_SECOND) + 1 / 24, len(names) - 0.5, -0.5)
        axis.imshow(z.T, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, extent=extent, interpolation="nearest")
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title(f"{name}: {note}", fontsize=9)
        axis.set_xlabel("days since the start of the window", fontsize=8)
    return markdown_of(figure)


def histograms(samples: Mapping[str, Floats], names: Sequence[str], note: str) -> str:
    """Draw how the columns of float64[n, columns] are distributed, a panel each."""
    figure = figure_of(8.0, 2.8)
    for axis, (column, label) in zip(figure.subplots(1, len(names)), enumerate(names), strict=True):
        for name, values in samples.items():
            finite = values[np.isfinite(values[:, column]), column]
            if len(finite):
                low, high = np.quantile(finite, (0.005, 0.995))
                axis.hist(finite, bins=40, range=(low, max(high, low + 1e-9)), histtype="step", label=name)
        axis.set_title(label, fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(note, fontsize=9)
    return markdown_of(figure)


def skills(values: Mapping[str, Mapping[str, float]], note: str) -> str:
    """Draw bars of skill: one group a target, one bar a baseline."""
    figure = figure_of(8.0, 2.8)
    axis = figure.subplots()
    baselines = sorted({name for group in values.values() for name in group})
    width = 0.8 / max(1, len(baselines))
    for k, name in enumerate(baselines):
        at = np.arange(len(values)) + k * width
        axis.bar(at, [group.get(name, np.nan) for group in values.values()], width, label=f"against {name}")
    axis.set_xticks(np.arange(len(values)) + 0.4 - width / 2, list(values), fontsize=7)
    axis.axhline(0.0, color="black", lw=0.8)
    axis.set_ylabel("skill")
    axis.set_title(note, fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return markdown_of(figure)


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure, inches."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _moments(ts: Ints) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return ts.astype("datetime64[ns]")
