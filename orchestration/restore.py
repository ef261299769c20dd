"""``tidemill restore``: a backup verified file by file, laid out beside, read back, and put in place by one rename."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from domain.config import Places
from domain.errors import BadState, UsageError
from orchestration.progress import Progress
from orchestration.reading_back import contents, read_back
from orchestration.saved import CONFIG, HOME, Manifest, copy_file, digest_of, make_private, read_manifest, sync
from orchestration.settings import read_places


def restore(folder: Path) -> None:
    """Put a backup into a home that does not exist yet, or is empty.

    Raises
    ------
    UsageError
        When the directory is not a backup, or the home holds anything.
    BadState
        When a file of the backup is damaged or missing, or what was restored does not read back: no home is left.
    """
    places, folder = read_places(), folder.absolute()
    home = places.home.absolute()
    manifest = read_manifest(folder)
    _refuse(home, folder)
    with Progress(f"restore of {folder}") as bar:
        _verify(folder, manifest, bar)
        beside = home.with_name(f".{home.name}.restoring")
        shutil.rmtree(beside, ignore_errors=True)  # of a restore that was killed
        try:
            _lay_out(folder, manifest, beside, bar)
            bar.say("reading it back")
            if read_back(places, beside) != (manifest.held, manifest.ends):
                raise BadState(f"{folder} reads back as something else than was backed up; use another backup")
            sync()
            _settle(beside, home)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    print("\n".join(_words(places, folder, manifest)))  # noqa: T201 - the command's answer


def _refuse(home: Path, folder: Path) -> None:
    if home.exists() and not home.is_dir():
        raise UsageError(f"{home} is a file; set TIDEMILL_HOME to a directory that does not exist yet")
    if folder.is_relative_to(home):
        raise UsageError(f"{folder} lies in {home}; move it elsewhere, or set TIDEMILL_HOME to another directory")
    if home.exists() and any(home.iterdir()):
        raise UsageError(
            f"{home} holds a home already, and nothing is restored over one: end it with 'tidemill down', move it away "
            f"(mv {home} {home}.lost), then restore again; or set TIDEMILL_HOME to a directory that does not exist yet"
        )


def _verify(folder: Path, manifest: Manifest, bar: Progress) -> None:
    """Return when every file is the one that was written."""
    total, done = max(1, sum(file.size for file in manifest.files)), 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        bar.share(done / total / 2)

    bar.say(f"verifying {len(manifest.files):,} files")
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            raise BadState(f"{path} is missing; use another backup")
        if path.stat().st_size != file.size or digest_of(path, count) != file.sha256:
            raise BadState(f"{path} is damaged: it is not the file that was backed up; use another backup")


def _lay_out(folder: Path, manifest: Manifest, beside: Path, bar: Progress) -> None:
    make_private(beside)
    bar.say("restoring")
    for number, file in enumerate(manifest.files):
        source = Path(file.path)
        if source.parts[0] != HOME:
            continue
        if copy_file(folder / source, beside / source.relative_to(HOME)) != file.sha256:
            raise BadState(f"{folder / source} has just changed; use another backup")
        bar.share(0.5 + number / len(manifest.files) / 2)


def _settle(beside: Path, home: Path) -> None:
    try:
        beside.rename(home)  # also over an empty directory
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.EXDEV}:
            raise
        raise UsageError(f"{home} is a mount point; set TIDEMILL_HOME to a directory below it") from error


def _words(places: Places, folder: Path, manifest: Manifest) -> list[str]:
    lines = [f"{places.home.absolute()} is as it was at {manifest.taken_at}", *contents(manifest.held)]
    lines += [f"restore by yourself: {words}" for words in manifest.absent]
    if manifest.config and not (places.config.is_file() and digest_of(places.config) == manifest.config):
        lines.append(f"{places.config} is not the one of then, which is {folder / CONFIG}: compare them first")
    return [*lines, "then: tidemill up"]
