"""What came out of a replay: counts, seconds and losses, from the lake and the registry, as JSON or as a table."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from domain.config import Places, Project
from domain.evaluation import skill
from domain.features import TARGETS
from domain.fleet import Line
from domain.tape import merge
from streaming.seam import newest_good
from warehouse.control import Control
from warehouse.features import count, read_table, training_rows
from warehouse.keys import model_key
from warehouse.lake import Lake
from warehouse.performance import served_loss
from warehouse.registry import Registry

BASELINES = ("mean", "persistence", "ewma", "frozen")
_EVER = 2**62


@dataclass
class Report:
    """One replay in numbers.

    Attributes
    ----------
    bars, vectors, examples, predictions : rows in the lake, history and stream together
    streamed : of these, rows after ``train_until``
    learned, versions, dead_letters : examples learned, versions published, records refused
    targets : per target the progressive loss of every member at question time, and the champion's skill
    served : what the predictor really answered, scored the same way, with the age of its models
    lines : the same per instrument, and each line's digest
    seconds : per stage
    """

    instruments: list[str]
    interval_s: float
    horizon_s: int
    bars: int = 0
    vectors: int = 0
    examples: int = 0
    learned: int = 0
    predictions: int = 0
    versions: int = 0
    dead_letters: int = 0
    streamed: dict[str, int] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    served: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def print(self, *, as_json: bool) -> None:
        """Print the report on stdout."""
        if as_json:
            print(json.dumps(asdict(self)))  # noqa: T201 - the one thing stdout is for
            return
        _print_tables(self)


def collect(
    places: Places, project: Project, control: Control, starts: dict[str, int], until: int, *, verify: bool
) -> Report:
    """Return what rests in the lake and the registry after a replay.

    Parameters
    ----------
    starts, until : where each history began, and where the stream did, ns
    verify
        Train each line again in one pass from the lake and compare digests: the proof that the stream lost, doubled
        and reordered nothing.
    """
    registry = Registry(control, places.models, model_key(places))
    report = Report(list(project.instruments), project.interval / 1e9, project.horizon_s)
    report.dead_letters = sum(control.dead_letters().values())
    with Lake.open(places, read_only=True) as lake:
        for name in project.instruments:
            rows = {
                table: count(lake, table, name, 0, _EVER) for table in ("bars", "features", "examples", "predictions")
            }
            after = {table: count(lake, table, name, until, _EVER) for table in rows}
            line = newest_good(registry, name, "report")[1].line if registry.newest(name) else Line(name, project.fleet)
            report.bars += rows["bars"]
            report.vectors += rows["features"]
            report.examples += rows["examples"]
            report.predictions += rows["predictions"]
            report.learned += line.n_learned
            report.versions += registry.count(name)
            for table, n in after.items():
                report.streamed[table] = report.streamed.get(table, 0) + n
            report.lines[name] = {
                **rows,
                "learned": line.n_learned,
                "versions": registry.count(name),
                "digest": line.digest(),
                "scores": line.scores(),
                "served": served_loss(lake, name, until),
            }
            if verify:
                oracle = _oracle(lake, project, name, starts[name], until)
                report.lines[name] |= {"oracle_digest": oracle, "bit_identical": oracle == line.digest()}
    report.targets = {target: _pooled(report, target, project) for target in TARGETS}
    report.served = _served(report)
    return report


def _oracle(lake: Lake, project: Project, name: str, start: int, until: int) -> str:
    """Return the digest of a line trained over the lake's own rows in one pass, with the same end of training."""
    from assets.training import follow, learn

    line, _ = learn(lake, project, name, start, until)
    line.freeze()
    rest = training_rows(lake, name, start, _EVER)
    vectors = read_table(lake, "features", name, until, _EVER)
    later = rest.examples.available > until
    examples = type(rest.examples)(
        rest.examples.ts[later],
        rest.examples.available[later],
        rest.examples.values[later],
        rest.examples.targets[later],
    )
    if len(vectors) and len(examples):
        follow(line, merge(vectors, examples), int(min(vectors.ts[-1], examples.available[-1])))
    return line.digest()


def _pooled(report: Report, target: str, project: Project) -> dict[str, Any]:
    """Return losses of all lines together, weighted by their answers."""
    sums: dict[str, list[float]] = {}
    for line in report.lines.values():
        for member, score in line["scores"][target].items():
            n, total = sums.setdefault(member, [0.0, 0.0])
            sums[member] = [n + score["n"], total + score["n"] * score["loss"]]
    losses = {member: total / n for member, (n, total) in sums.items() if n}
    champion = next(model.name for model in project.fleet if target in model.targets)
    loss = losses.get(champion)
    return {
        "model": champion,
        "n": int(sums.get(champion, [0])[0]),
        "loss": loss,
        "baselines": {name: losses[name] for name in BASELINES if name in losses},
        "challengers": {m: v for m, v in losses.items() if m != champion and m not in BASELINES},
        "skill": {name: skill(loss, losses[name]) for name in BASELINES if name in losses and loss is not None},
    }


def _served(report: Report) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for target in TARGETS:
        parts = [line["served"][target] for line in report.lines.values() if line["served"][target]["count"]]
        n = sum(part["count"] for part in parts)
        out[target] = {"n": n, "loss": sum(p["count"] * p["loss"] for p in parts) / n if n else None}
    ages = [line["served"]["model_age_s"] for line in report.lines.values() if line["served"]["model_age_s"]["mean"]]
    out["model_age_s"] = {
        "mean": sum(age["mean"] for age in ages) / len(ages) if ages else None,
        "max": max(age["max"] for age in ages) if ages else None,
    }
    return out


def _print_tables(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    names = ("bars", "vectors", "examples", "learned", "predictions", "versions", "dead_letters")
    console.print("  ".join(f"{name} {getattr(report, name):,}" for name in names))
    made_up = "SIMULATED prices: " if any(name.startswith("simulated:") for name in report.instruments) else ""
    title = f"{made_up}progressive loss at question time"
    table = Table("target", "scored", "model", "loss", *BASELINES, "served", title=title)
    for target, found in report.targets.items():
        cells = [f"{found['baselines'].get(name, float('nan')):.5f}" for name in BASELINES]
        loss, served = found["loss"], report.served[target]["loss"]
        shown = [f"{value:.5f}" if value is not None else "-" for value in (loss, served)]
        table.add_row(target, f"{found['n']:,}", found["model"], shown[0], *cells, shown[1])
    console.print(table)
    for target, found in report.targets.items():
        better = ", ".join(f"{value:+.2%} on {name}" for name, value in found["skill"].items() if value is not None)
        console.print(f"{target}: skill {better}")
    age = report.served["model_age_s"]
    if age["mean"] is not None:
        console.print(
            f"served by models whose newest label was {age['mean']:.0f} s of event time old on average (at full speed "
            f"the predictor runs ahead of the trainer; the horizon alone is {report.horizon_s} s)"
        )
    console.print("seconds: " + "  ".join(f"{name} {value:.1f}" for name, value in report.seconds.items()))
