"""The performance of what is served, recorded: answers beside outcomes, against forecasts that knew just as much."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets import plots
from assets.partitions import text_of
from assets.resources import Mill
from assets.versions import line_name
from domain.events import NANOS_PER_SECOND

if TYPE_CHECKING:
    from assets.card import Card
    from domain.confidence import Estimate

PERFORMANCE = dg.AssetKey("prediction_performance")
REPORT = "reports/performance.html"
"""Below home."""

NEWEST = 20
"""Versions of a line told one by one."""

DESCRIPTION = """What was served in the newest hours of event time, beside what then happened: loss; skill against the
running mean, persistence, a calibrated exponential average and the *frozen* first model, all asked the same questions
knowing no more; calibration; loss by model age; the share of vectors answered. The calibration of the averages is
fixed before the window begins.

Intervals are of 95 % and heed that neighbours resemble each other (targets over a horizon overlap). *Plots* shows each
skill over time; the report is a page of its own below home. Fails where nothing served has an outcome yet."""


class Window(dg.Config):
    """Which answers to look at."""

    hours: int = Field(
        default=168, ge=1, le=2_160, description="Hours of event time before the newest label whose answers are judged."
    )


def performance_asset() -> dg.AssetsDefinition:
    """Return asset ``prediction_performance``."""

    @dg.asset(
        key=PERFORMANCE,
        deps=["predictions", "examples"],
        group_name="models",
        kinds={"duckdb", "python"},
        description=DESCRIPTION,
    )
    def prediction_performance(
        context: dg.AssetExecutionContext, config: Window, mill: dg.ResourceParam[Mill]
    ) -> dg.MaterializeResult[None]:
        from assets.scorecard import served_card
        from warehouse.keys import model_key
        from warehouse.registry import Registry

        cards, silent = list["Card"](), list[str]()
        with mill.lake() as lake, mill.control() as control:
            registry = Registry(control, mill.places.models, model_key(mill.places))
            for name in mill.project.instruments:
                card = served_card(lake, mill.project, name, config.hours, registry)
                if card is None:
                    silent.append(name)
                    continue
                context.log.info("%s: %d of %d vectors were answered", name, card.answered, card.vectors)
                if card.unread:
                    context.log.warning("no yardstick 'frozen': %s", card.unread)
                cards.append(card)
        if not cards:
            raise dg.Failure(
                f"nothing that was served in the {config.hours} hours before the newest label has an outcome "
                f"({', '.join(silent)}); look at services/predictor, or ask for more hours",
                allow_retries=False,
            )
        return dg.MaterializeResult(metadata=_metadata(mill, cards, silent, config.hours))

    return prediction_performance


def _metadata(mill: Mill, cards: Sequence["Card"], silent: Sequence[str], hours: int) -> dict[str, Any]:
    """Return numbers to plot, tables and pictures, having written the report of the same."""
    from assets import performance_plots

    note = f"{mill.market}, {hours} h until {text_of(max(card.until for card in cards))}"
    interval_s = mill.project.interval / NANOS_PER_SECOND
    figures = {
        "skill": performance_plots.skills(cards, note),
        "calibration": performance_plots.calibration(cards, note),
        "model age": performance_plots.ages(cards, interval_s, note),
        "versions": performance_plots.versions(cards, note),
    }
    skills = [row for card in cards for row in skill_rows(card)]
    newest = [row for card in cards for row in version_rows(card)]
    path = mill.places.home.absolute() / REPORT
    _report(path, mill, note, cards, figures, skills, newest)
    numbers: dict[str, Any] = {}
    for card in cards:
        numbers |= {f"{what} {line_name(card.instrument)}": value for what, value in numbers_of(card).items()}
    return {
        **numbers,
        "simulated": mill.project.market.simulated,
        "market": mill.market,
        "window": note,
        "not_served": ", ".join(silent) or "none",
        "report": dg.MetadataValue.path(path),
        "skills": _table(skills),
        "newest_versions": _table(newest),
        # A run an hour keeps these for good: the report has the others, and larger.
        **{name: dg.MetadataValue.md(plots.markdown_of(figures[name])) for name in ("skill", "calibration")},
    }


def numbers_of(card: "Card") -> dict[str, float]:
    """Return a card as flat finite numbers: what cannot be told is left out, never 0."""
    import numpy as np

    from domain.features import TARGETS

    out: dict[str, float] = {"answers": int(np.count_nonzero(card.version))}
    if card.vectors:
        out["coverage"] = card.answered / card.vectors
    out["model_age_s"] = float(np.nanmean(card.age))
    for k, target in enumerate(TARGETS):
        if (loss := card.loss(k)) is not None:
            out[f"loss_{target}"] = loss.value
        for name in card.yardsticks:
            if (skill := card.skill(k, name)) is not None:
                out[f"skill_{target}_vs_{name}"] = skill.value
        if (least := card.skill(k, card.hardest(k))) is not None:
            out[f"skill_{target}_low"] = least.low
        if (slope := card.slope(k)) is not None:
            out[f"slope_{target}"] = slope.value
    return out


def skill_rows(card: "Card") -> list[dict[str, str]]:
    """Return losses, skills and slopes with their intervals as text, a row a target."""
    from domain.features import TARGETS

    rows = []
    for k, target in enumerate(TARGETS):
        loss = card.loss(k)
        row = {"line": card.instrument, "target": target, "answers": str(loss.n) if loss else "few"}
        row["loss"] = _text(loss)
        row |= {f"skill vs {name}": _text(card.skill(k, name)) for name in card.yardsticks}
        rows.append(row | {"hardest": card.hardest(k), "slope": _text(card.slope(k))})
    return rows


def version_rows(card: "Card") -> list[dict[str, str]]:
    """Return the newest versions' answers and mean losses as text, newest first."""
    from domain.features import TARGETS

    return [
        {"line": card.instrument, "version": str(one.first), "answers": str(one.n), "until": text_of(one.until)}
        | {f"loss {target}": f"{one.loss[k]:.4g}" for k, target in enumerate(TARGETS)}
        for one in card.versions(NEWEST)
    ]


def _report(
    path: Path,
    mill: Mill,
    note: str,
    cards: Sequence["Card"],
    figures: dict[str, Any],
    skills: list[dict[str, str]],
    newest: list[dict[str, str]],
) -> None:
    from assets.performance_report import write_report

    pictures = {name: plots.uri_of(figure, 110) for name, figure in figures.items()}
    facts = {"window": note, "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")}
    for card in cards:
        facts[card.instrument] = f"{card.answered:,} of {card.vectors:,} vectors answered since {text_of(card.since)}"
    write_report(
        path,
        mill.market,
        facts,
        [
            ("Loss and skill", "Skill is 1 - loss / loss of the yardstick; in brackets the 95 % interval.", skills),
            ("Skill", "Above 0 the served answers were better than the yardstick's.", pictures["skill"]),
            (
                "Calibration",
                "The mean outcome of each tenth of the predictions; on the dashed line they mean what they say.",
                pictures["calibration"],
            ),
            (
                "Model age",
                f"Event time since the newest label that the model knew; the horizon is {mill.project.horizon_s} s.",
                pictures["model age"],
            ),
            ("Versions over time", "At most 50 ranges of versions a line.", pictures["versions"]),
            ("The newest versions", f"At most {NEWEST} a line; a few answers each, so mostly luck.", newest),
        ],
    )


def _text(found: "Estimate | None") -> str:
    return "" if found is None else f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def _table(rows: Sequence[dict[str, str]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows])
