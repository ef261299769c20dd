"""``tidemill backup``: one consistent moment of a home, copied while it runs, read back, and named by a manifest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from domain.config import Places
from domain.errors import UsageError
from orchestration.progress import Progress
from orchestration.reading_back import contents, read_back
from orchestration.saved import (
    CONFIG,
    FORMAT,
    HOME,
    MANIFEST,
    File,
    Manifest,
    copy_file,
    digest_of,
    make_private,
    sync,
    write_manifest,
)
from orchestration.settings import read_places
from streaming.devbroker.copy import keep_logs
from warehouse.files import exclusive
from warehouse.moment import Moment, copy_database, copy_reading, moment_of

SECOND_NAMES = ".backup"
"""Directory in the home that keeps the moment's files while they are copied; it goes with the backup's end."""

SMALL = ("home.json", "market.json", "model.key", "models/identity.json", "lake/data/identity.json")
"""Files that are replaced whole or never changed."""

CLOCK = "exchange.clock"
"""Of the exchange in a box, kept after the logs: its market never stands before a trade that was already sent."""


def backup(folder: Path) -> None:
    """Take a backup into a new or empty directory, and say what it holds.

    Raises
    ------
    UsageError
        When there is no home, or the directory is not empty or lies in the home.
    BadState
        When what was copied does not read back; then the directory holds nothing.
    """
    places, folder = read_places(), folder.absolute()
    home = places.home.absolute()
    _refuse(home, folder)
    made = not folder.exists()
    make_private(folder)
    folder.chmod(0o700)
    try:
        with exclusive(home / "backup.lock", 0.0), Progress(f"backup of {home}") as bar:
            manifest = _taken(places, folder, bar)
            sync()
            write_manifest(folder, manifest)
    except BaseException:
        _empty(folder, gone=made)
        raise
    print("\n".join(_words(folder, manifest, keyed=bool(places.model_key))))  # noqa: T201 - the command's answer


def _refuse(home: Path, folder: Path) -> None:
    if not (home / "lake").is_dir() and not (home / "models").is_dir():
        raise UsageError(f"{home} holds nothing to back up; set TIDEMILL_HOME to the home that does")
    if folder.is_relative_to(home):
        raise UsageError(f"{folder} lies in the home {home}, and would be lost with it; name a directory elsewhere")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a new directory")
    if folder.exists() and any(folder.iterdir()):
        part = "" if (folder / MANIFEST).exists() else f", and without {MANIFEST} it is not a backup"
        raise UsageError(f"{folder} is not empty{part}; name a new directory, or empty this one first")


def _taken(places: Places, folder: Path, bar: Progress) -> Manifest:
    kept = places.home.absolute() / SECOND_NAMES
    shutil.rmtree(kept, ignore_errors=True)  # of a backup that was killed
    try:
        # Before the moment: its sensors' cursors may lag behind what the registry has, and never lead.
        _copy_dagster(places, folder / HOME, bar)
        with moment_of(places, kept, lambda moment: _keep_rest(places, moment)) as moment:
            taken_at = datetime.now(UTC)
            _copy(moment, folder / HOME, bar)
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    if places.config.is_file():
        copy_file(places.config, folder / CONFIG)
    bar.say("reading it back")
    held, ends = read_back(places, folder / HOME)
    for path in moment.missing:
        structlog.get_logger().warning("missing before the backup", file=path)
    return Manifest(
        format=FORMAT,
        tidemill=version("tidemill"),
        taken_at=taken_at.isoformat(timespec="milliseconds"),
        home=str(places.home.absolute()),
        config=digest_of(folder / CONFIG) if (folder / CONFIG).exists() else "",
        held=held,
        ends=ends,
        absent=_absent(places),
        files=list(_files(folder)),
    )


def _keep_rest(places: Places, moment: Moment) -> None:
    if not places.kafka_bootstrap_servers:
        keep_logs(moment.home / "broker", moment.keep)
    for name in (CLOCK, *SMALL):
        moment.keep(moment.home / name)


def _copy(moment: Moment, home: Path, bar: Progress) -> None:
    total, done = max(1, sum(moment.files.values())), 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        bar.share(done / total)

    for name, reading in moment.databases.items():
        bar.say(f"copying {name}")
        make_private((home / name).parent)
        copy_reading(reading, home / name)
    bar.say(f"copying {len(moment.files):,} files")
    for name, size in moment.files.items():
        copy_file(moment.kept / name, home / name, size, count)


def _copy_dagster(places: Places, home: Path, bar: Progress) -> None:
    """Copy Dagster's databases, the sensors' cursors first: what happens meanwhile is done again, never left out."""
    if places.dagster_url:
        return
    root = places.home.absolute()
    bar.say("copying Dagster's storage")
    for path in sorted((root / "dagster").rglob("*.db"), key=lambda path: (path.parent.name != "schedules", path.name)):
        target = home / path.relative_to(root)
        make_private(target.parent)
        with contextlib.suppress(FileNotFoundError):  # of a run that was just deleted
            copy_database(path, target)


def _files(folder: Path) -> Iterator[File]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if path.name.endswith(("-wal", "-shm", ".lock")):  # of those who read it back
            path.unlink()
            continue
        path.chmod(0o600)
        yield File(path.relative_to(folder).as_posix(), path.stat().st_size, digest_of(path))


def _absent(places: Places) -> list[str]:
    """Return what this home uses that is elsewhere, and how that is kept."""
    elsewhere = {
        "the control database, which names the versions' files (pg_dump it at the same time)": places.control_url,
        "Dagster's storage (pg_dump it)": places.dagster_url,
        f"the topics at {places.bootstrap} (their brokers replicate them)": places.kafka_bootstrap_servers,
        "the model key of TIDEMILL_MODEL_KEY, without which no version loads": places.model_key,
        "recordings/ (copy it as files)": (places.home / "recordings").is_dir(),
    }
    return [words for words, used in elsewhere.items() if used]


def _words(folder: Path, manifest: Manifest, *, keyed: bool) -> list[str]:
    size = sum(file.size for file in manifest.files)
    lines = [
        f"{folder}: {len(manifest.files):,} files, {size / 1e6:,.1f} MB, as of {manifest.taken_at}",
        *contents(manifest.held),
        *(f"not in it: {words}" for words in manifest.absent),
    ]
    if not keyed:
        lines.append("it holds model.key, which signs versions: keep it as you keep secrets")
    return [*lines, f"then: TIDEMILL_HOME=NEW_DIRECTORY tidemill restore {folder}"]


def _empty(folder: Path, *, gone: bool) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if gone:
        folder.rmdir()
