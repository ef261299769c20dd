"""Jobs on lines, each a form in the launchpad: retrain, promote, roll back, rebuild a version, unlearn a window.

A job takes a decision or makes a version; the services act on it by themselves, and the run ends when they have.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import history_of, text_of
from assets.resources import Mill
from domain.errors import TidemillError, UsageError
from domain.events import NANOS_PER_DAY, nanos_at
from orchestration.arrivals import caught_up, served
from orchestration.forms import Promote, Rebuild, Retrain, Rollback, Unlearn, What
from warehouse.registry import Registry
from warehouse.roles import Cast, Roles

if TYPE_CHECKING:
    from assets.retracing import Retracing
    from warehouse.lake import Lake

ENOUGH = 1_000
"""Scored answers without which no line is called better: the half-life of a recent loss (``domain.evaluation``)."""

_RUNS = {"dagster/max_runtime": "7200"}


def line_jobs() -> list[dg.JobDefinition]:
    """Return the jobs on lines."""
    return [retrain, promote, rollback, rebuild_version, unlearn]


@dg.op(name="retrain_line", out=dg.Out(dg.Nothing))
def _retrain(context: dg.OpExecutionContext, config: Retrain, mill: dg.ResourceParam[Mill]) -> None:
    from assets.training import train_initial

    with _said(), _retracing(context, mill) as (retracing, roles):
        for instrument in _chosen(mill, config.instrument, several=True):
            until = _landed(mill, retracing.lake, instrument)
            begin = history_of(mill.project, instrument).start
            start = max(begin, until - config.days * NANOS_PER_DAY) if config.days else begin
            line = roles.next_line(instrument)
            context.log.info("training %s on %s to %s", line, text_of(start), text_of(until))
            trained = train_initial(
                retracing.lake, retracing.control, retracing.registry, mill.project, line, start, until,
                retracing.progress,
            )  # fmt: skip
            cast = roles.challenge(line, config.reason or "retrained")
            context.log.info("%s version %d challenges %s", line, trained.version.number, cast.champion)
            caught_up(context, retracing.control, cast, config.wait_s)


@dg.op(name="choose_champion", out=dg.Out(dg.Nothing))
def _promote(context: dg.OpExecutionContext, config: Promote, mill: dg.ResourceParam[Mill]) -> None:
    with _said(), mill.control() as control:
        [instrument] = _chosen(mill, config.instrument)
        roles, registry = Roles(control), Registry(control, mill.places.models)
        if config.what is What.NEWEST:
            cast = roles.release(instrument, config.reason)
        else:
            why_not = _compared(context, registry, roles.of(instrument))
            if config.only_if_better and why_not:
                raise UsageError(f"{instrument}: {why_not}; nothing was changed")
            cast = roles.promote(instrument, config.reason)
        context.log.info("%s: %s is the champion", instrument, cast.champion)
        served(context, control, cast, lambda beat: beat.detail["line"][instrument] == cast.champion)


@dg.op(name="hold_version", out=dg.Out(dg.Nothing))
def _rollback(context: dg.OpExecutionContext, config: Rollback, mill: dg.ResourceParam[Mill]) -> None:
    with _said(), mill.control() as control:
        [instrument] = _chosen(mill, config.instrument)
        cast = Roles(control).hold(instrument, config.version, config.reason)
        context.log.info(
            "%s: version %d is held; training goes on. Job promote, NEWEST, ends it", instrument, cast.held
        )
        served(context, control, cast, lambda beat: beat.detail["version"][instrument] == config.version)


@dg.op(name="make_again", out=dg.Out(dg.Nothing))
def _rebuild(context: dg.OpExecutionContext, config: Rebuild, mill: dg.ResourceParam[Mill]) -> None:
    with _said(), _retracing(context, mill) as (retracing, _roles):
        [instrument] = _chosen(mill, config.instrument)
        version = retracing.registry.find(instrument, config.version)
        if version is None:
            raise UsageError(f"{instrument} has no version {config.version}, or it is kept no longer; choose another")
        made = retracing.rebuild(version)
        restored = made.same_state and retracing.restore(made)
        where = "from history" if made.parent is None else f"from version {made.parent.number}"
        context.add_output_metadata(
            {
                "version": version.number,
                "line": version.line,
                "made": where,
                "learned_on_the_way": made.n_learned,
                "digest": made.digest,
                "published_digest": version.digest,
                "same_state": made.same_state,
                "same_file": made.same_file,
                "restored": restored,
            }
        )
        if not made.same_state:
            raise TidemillError(
                f"{version.line} version {version.number} rebuilt {where} has digest {made.digest[:12]}, published was "
                f"{version.digest[:12]}: lake and stream differ, or the libraries do; see check no_skew"
            )
        done = ", its damaged file was put in place again" if restored else ""
        context.log.info("version %d is what it says it is (%s)%s", version.number, where, done)


@dg.op(name="leave_out", out=dg.Out(dg.Nothing))
def _unlearn(context: dg.OpExecutionContext, config: Unlearn, mill: dg.ResourceParam[Mill]) -> None:
    with _said(), _retracing(context, mill) as (retracing, roles):
        [instrument] = _chosen(mill, config.instrument)
        window = _moment(config.since), _moment(config.until)
        cast, line = roles.of(instrument), roles.next_line(instrument)
        until = _landed(mill, retracing.lake, instrument)
        version = retracing.unlearn(cast.champion, line, window, until)
        was = "history" if version.parent is None else f"version {version.parent}"
        context.log.info("%s version %d, from %s, learned %d", line, version.number, was, version.n_learned)
        reason = config.reason or f"without {text_of(window[0])} to {text_of(window[1])}"
        cast = roles.challenge(line, reason)
        caught_up(context, retracing.control, cast, config.wait_s)


@dg.job(tags=_RUNS)
def retrain() -> None:
    """Train a new first model of a line, with the fleet of today's tidemill.toml, and let it challenge the champion.

    It learns beside the live trainer, in service `challenger`, and serves nothing until job `promote`. A former
    challenger retires.
    """
    _retrain()


@dg.job(tags=_RUNS)
def promote() -> None:
    """Let champion and challenger change parts, or end a rollback. The predictor follows within two seconds."""
    _promote()


@dg.job(tags=_RUNS)
def rollback() -> None:
    """Let a former version serve, within two seconds, until job `promote`. Training goes on meanwhile."""
    _rollback()


@dg.job(tags=_RUNS)
def rebuild_version() -> None:
    """Make a version once more from the one before it and the lake: its digest must match. Restores a damaged file."""
    _rebuild()


@dg.job(tags=_RUNS)
def unlearn() -> None:
    """Lead the champion once more along the lake without a window of bad data, and let that challenge it."""
    _unlearn()


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Turn an error of ours into a failure whose one line a person reads."""
    try:
        yield
    except TidemillError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@contextlib.contextmanager
def _retracing(context: dg.OpExecutionContext, mill: Mill) -> Iterator[tuple["Retracing", Roles]]:
    from assets.retracing import Retracing
    from warehouse.keys import model_key

    with mill.lake() as lake, mill.control() as control:
        registry = Registry(control, mill.places.models, model_key(mill.places))
        yield Retracing(lake, control, registry, mill.project, _reporter(context)), Roles(control)


def _reporter(context: dg.OpExecutionContext) -> Callable[[float], None]:
    told = time.monotonic()

    def report(share: float) -> None:
        nonlocal told
        if time.monotonic() - told > 5.0:  # noqa: PLR2004 - seconds between two lines
            told = time.monotonic()
            context.log.info("%d %% of the rows learned", int(100 * share))

    return report


def _chosen(mill: Mill, wanted: str, *, several: bool = False) -> tuple[str, ...]:
    names = mill.project.instruments
    if not wanted and (several or len(names) == 1):
        return names
    if wanted not in names:
        raise UsageError(f"'{wanted}' is not an instrument here; set 'instrument' to one of {', '.join(names)}")
    return (wanted,)


def _landed(mill: Mill, lake: "Lake", instrument: str) -> int:
    from assets.history import ends_of

    return ends_of(mill, lake, "examples")[instrument]


def _moment(text: str) -> int:
    try:
        return nanos_at(datetime.fromisoformat(text.strip()))
    except ValueError as error:
        raise UsageError(f"'{text}' is not a time; write one such as 2025-01-08 12:30") from error


def _compared(context: dg.OpExecutionContext, registry: Registry, cast: Cast) -> str:
    """Show the recent losses of both lines side by side; return why the challenger is not better, empty when it is."""
    scores: dict[str, dict[str, Mapping[str, float]]] = {}
    for newest in filter(None, map(registry.newest, cast.lines)):
        for target, name in newest.champions.items():
            if name in newest.metrics.get(target, {}):
                scores.setdefault(target, {})[newest.line] = newest.metrics[target][name]
    rows = [
        dg.TableRecord({"target": target} | {line: _score(of.get(line)) for line in cast.lines})
        for target, of in scores.items()
    ]
    if rows:
        context.add_output_metadata({"recent_losses": dg.MetadataValue.table(rows)})
    of, challenger = scores.get("volatility", {}), cast.challenger or ""
    if challenger not in of or cast.champion not in of:
        return "not both lines have been scored"
    if few := [name for name in (challenger, cast.champion) if of[name]["n"] < ENOUGH]:
        return f"{few[0]} has {of[few[0]]['n']:,} scored answers, fewer than {ENOUGH:,}: a recent loss of these is luck"
    better = of[challenger]["recent_loss"] < of[cast.champion]["recent_loss"]
    return "" if better else "the challenger is not better by its recent loss"


def _score(score: Mapping[str, float] | None) -> str:
    return f"{score['recent_loss']:.5g} ({score['n']:,} answers)" if score else "not scored"
