"""The ``tidemill`` command and its verbs. Mistakes get one line and exit code 2."""

from __future__ import annotations

import errno
import gc
import math
import os
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Annotated

import structlog
import typer

from domain.errors import BadState, TidemillError, UsageError
from domain.market import FASTEST
from domain.services import SERVICES
from domain.stores import STORES
from orchestration.privacy import UMASK, keep_private

DISK_REFUSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})

SHORT_OF_MEMORY = "the system gives no more memory; give it more or raise its limit, the next start goes on from there"

app = typer.Typer(
    name="tidemill",
    help="Incremental learning on live markets: every new labelled example updates the model that serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

dead_letters = typer.Typer(help="Records that were refused: list them, look at one, send some again.")
app.add_typer(dead_letters, name="dead-letters", no_args_is_help=True)


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Reason = Annotated[str, typer.Option(help="Only of this reason, such as schema or late.")]
Refuser = Annotated[str, typer.Option(help="Only what this service refused.")]
OfTopic = Annotated[str, typer.Option(help="Only records of this topic.")]


def _service(name: str) -> str:
    if name not in ("broker", "exchange", *SERVICES):
        raise typer.BadParameter(f"'{name}' is not one of broker, exchange, {', '.join(SERVICES)}")
    return name


def _stores(names: list[str] | None) -> list[str]:
    for name in names or ():
        if name not in STORES:
            raise typer.BadParameter(f"'{name}' is not one of {', '.join(STORES)}")
    return names or []


@app.command()
def up(
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            max=86_400,
            callback=_finite,
            help="Give up when nothing has moved for so many seconds before the first prediction; 0 = do not wait.",
        ),
    ] = 60,
    begin_again: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            callback=_stores,
            help=f"A store that is lost begins again; one of {', '.join(STORES)}. Says what that loses; repeat.",
        ),
    ] = None,
    sensors_on: Annotated[
        bool, typer.Option("--sensors-on", help="Turn on sensors and schedules that were stopped in Dagster.")
    ] = False,
) -> None:
    """Start everything: broker and Dagster, which then backfills, trains and deploys. Returns when predictions flow."""
    from orchestration.up import up

    up(wait, [store for store in STORES if store in (begin_again or ())], sensors_on=sensors_on)


@app.command()
def down() -> None:
    """Stop every process that `up` started. Data and models stay."""
    from orchestration.up import down

    down()


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh in place until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every service: phase, lag, version, examples learned, skill."""
    from orchestration.status import show

    raise typer.Exit(show(watch=watch, as_json=as_json))


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="One service; all when absent.")] = "",
    lines: Annotated[int, typer.Option("-n", min=0, max=1_000_000, help="Lines a service.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until Ctrl-C.")] = False,
) -> None:
    """Print the newest log lines."""
    from orchestration.logs import print_logs

    print_logs(service, lines, follow=follow)


@app.command()
def doctor() -> None:
    """Check what Tidemill needs: configuration, ports, disk, packages, broker, lake. Says what to do about each."""
    from orchestration.doctor import examine

    raise typer.Exit(examine())


@app.command()
def backup(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")]) -> None:
    """Copy one consistent moment of this home, while it runs, and check the copy. It holds the model key."""
    from orchestration.backup import backup

    backup(folder)


@app.command()
def restore(folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `backup` wrote.")]) -> None:
    """Put a backup into a home that does not exist yet; `up` then goes on from its moment."""
    from orchestration.restore import restore

    restore(folder)


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - each is an option
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Recorded trades, candles or frames, or a recorded session.")
    ] = None,
    train_until: Annotated[str, typer.Option(help="UTC date or time where the stream begins; default: half way.")] = "",
    bar: Annotated[str, typer.Option(help="Length of a bar, such as 1s; default: the candles', or 1m.")] = "",
    horizon: Annotated[str, typer.Option(help="How far ahead the targets lie, such as 30s.")] = "",
    instrument: Annotated[
        list[str] | None, typer.Option(help="venue:SYMBOL; repeat; default: all in the data.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Keep everything here; default: a temporary directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also train in one pass from the lake and compare.")] = False,
) -> None:
    """Run history through the real processes as fast as they go, and score the models at question time."""
    from orchestration.planned import plan
    from orchestration.replay import Replay

    with plan([*(data or []), *(more or [])], train_until, bar, horizon, instrument or [], home) as planned:
        report = Replay(planned).run(verify=verify)
    report.print(as_json=as_json)


@app.command()
def exchange(
    source: Annotated[list[str] | None, typer.Option(help="simulated (the default), or files; repeat.")] = None,
    instrument: Annotated[
        list[str] | None, typer.Option(help="venue:SYMBOL; repeat; default: all in the files, or the project's.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On 127.0.0.1; 0 takes any that is free.")] = 8600,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=FASTEST,
            callback=_finite,
            help="Event seconds a second; 0: as readers read; default: the project's.",
        ),
    ] = None,
    opens: Annotated[datetime | None, typer.Option(help="UTC time at the first start; default: the project's.")] = None,
    faults: Annotated[str, typer.Option(help="Some of drop,duplicate,reorder,close,stall,429,...: by chance.")] = "",
    every: Annotated[
        float, typer.Option(min=0.001, max=86_400, callback=_finite, help="Mean seconds between two of them.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(help="Of their chance.")] = 0,
) -> None:
    """Serve an exchange in a box: Binance's and Kraken's public interfaces, over a simulated or recorded market."""
    from markets.box.faults import Faults
    from orchestration.exchange import serve

    chance = Faults([kind.strip() for kind in faults.split(",") if kind.strip()], every, seed)
    serve(source or ["simulated"], instrument or [], opens, speed, port, chance)


@dead_letters.command("list")
def list_letters(
    reason: Reason = "",
    service: Refuser = "",
    topic: OfTopic = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many of the newest to show; all are counted.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the newest dead letters, each record once a service, and count them by reason."""
    from orchestration.dead_letters import list_letters

    list_letters(reason, service, topic, limit, as_json=as_json)


@dead_letters.command("show")
def show_letter(
    number: Annotated[int, typer.Argument(metavar="ID", min=0, max=2**62, help="Its id in the list.")],
) -> None:
    """Print all of one dead letter as JSON."""
    from orchestration.dead_letters import show_letter

    show_letter(number)


@dead_letters.command("replay")
def replay_letters(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="ID...", min=0, max=2**62, help="Ids in the list.")
    ] = None,
    reason: Reason = "",
    service: Refuser = "",
    topic: OfTopic = "",
    again: Annotated[bool, typer.Option("--again", help="Also those that were sent again before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
) -> None:
    """Send the very bytes of chosen records to their topic once more, and mark them."""
    from orchestration.dead_letters import replay_letters

    replay_letters(numbers or [], reason, service, topic, again=again, dry_run=dry_run)


@app.command()
def chaos(
    kills: Annotated[int, typer.Option(min=0, max=1_000, help="Services to kill in all.")] = 10,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Of the schedule and the drawn market: the same seed, the same run.")
    ] = 1,
    faults: Annotated[str, typer.Option(help="Some of kill,pause,duplicate,tear.")] = "kill",
    trials: Annotated[int, typer.Option(min=1, max=100, help="Times that each fault but kill happens.")] = 1,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="As for replay; default: a market drawn from the seed.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Keep everything here; default: a temporary directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")] = False,
) -> None:
    """Kill and disturb the services during a replay, then compare all that is left with an undisturbed one.

    Exit code 1 when anything differs: the first difference is named.
    """
    from tempfile import TemporaryDirectory

    from orchestration.chaos import drawn_market, run
    from orchestration.faults import fault_kinds
    from orchestration.planned import plan

    kinds = fault_kinds(faults)
    with TemporaryDirectory(prefix="tidemill-chaos-") as drawn:
        paths = data or [drawn_market(Path(drawn), kills if "kill" in kinds else 0, seed)]
        with plan(paths, "", "", "", [], home) as planned:
            outcome = run(planned, kills, seed, trials, kinds)
    outcome.print(as_json=as_json)
    if outcome.first_difference:
        raise BadState(outcome.first_difference)


@app.command()
def run(
    service: Annotated[str, typer.Argument(callback=_service, help=f"One of broker, exchange, {', '.join(SERVICES)}.")],
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Only import, read and build everything; open nothing.")
    ] = False,
) -> None:
    """Run one service in the foreground until it ends or Ctrl-C."""
    # A start makes a million objects that all stay: looking for garbage among them took a quarter of its time. The loop
    # turns it on again.
    gc.disable()
    from orchestration.bootstrap import rehearse_service, run_service
    from orchestration.deployment import Deployment
    from orchestration.rehearsal import rehearse_start
    from orchestration.settings import read_places, read_project

    places = read_places()
    project = read_project(places)
    rehearse_start(service, places, project)
    if rehearse:
        rehearse_service(service, places, project)
        return
    keep_private(places.home)
    Deployment(places, project).refuse_second(service)
    run_service(service, places, project)


def main() -> None:
    """Run the command and exit: 0 done, 1 stopped by bad state, 2 a mistake of the person."""
    os.umask(UMASK)
    threading.excepthook = _end_short_of_memory
    # Stdout is for answers: what a person asked for, or one JSON object.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                pad_level=False,
                exception_formatter=structlog.dev.plain_traceback,  # frames' locals do not belong in a log
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        result = app(prog_name="tidemill", standalone_mode=False)
    except typer._click.exceptions.UsageError as error:  # noqa: SLF001 - the base of its usage errors has no public name
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tidemill"
        _say(f"{command}: {error.format_message()} (try '{command} --help')")
        return 2
    except UsageError as error:
        _say(f"tidemill: {error}")
        return 2
    except (TidemillError, MemoryError) as error:
        _say(f"tidemill: {SHORT_OF_MEMORY if isinstance(error, MemoryError) else error}")
        return 1
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _say(f"tidemill: {where}{error.strerror}; see to the disk, the next start goes on from there")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return result if isinstance(result, int) else 0


def _say(words: str) -> None:
    """Print one line: what a message repeats of files and settings may hold line ends, and what a terminal obeys."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in words)
    typer.echo(line, err=True)


def _end_short_of_memory(failed: threading.ExceptHookArgs) -> None:
    """End the process when one of its threads gets no memory: without it the others would only seem to work."""
    if isinstance(failed.exc_value, MemoryError):
        os.write(2, f"tidemill: {SHORT_OF_MEMORY}\n".encode())
        os._exit(1)
    threading.__excepthook__(failed)


if __name__ == "__main__":
    main()
