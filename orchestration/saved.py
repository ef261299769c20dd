"""A backup on disk: a directory of files, and a manifest that names each of them by its digest and is written last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from domain.errors import BadState, Unavailable, UsageError
from warehouse.files import settle, stage
from warehouse.inventory import Inventory

FORMAT = 1
MANIFEST, HOME, CONFIG = "manifest.json", "home", "tidemill.toml"
"""What a backup consists of: its manifest, what belongs into a home, and the configuration of then, for reference."""

_CHUNK = 1 << 20


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup, below its directory."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds.

    Attributes
    ----------
    format : of this file
    tidemill : version that wrote it
    taken_at : the moment, UTC
    home : the directory it was taken of
    config : sha256 of the configuration of then, empty where there was none
    held : what was read back from the copy
    ends : topic/partition -> next offset of the copied log, and the log's identity
    absent : what the home uses and the backup does not hold, in words
    """

    format: int
    tidemill: str
    taken_at: str
    home: str
    config: str
    held: Inventory
    ends: dict[str, tuple[int, str]]
    absent: list[str]
    files: list[File]


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    manifest: msgspec.Raw
    sha256: str


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a directory a backup."""
    text = msgspec.json.encode(manifest)
    sealed = msgspec.json.encode(_Sealed(msgspec.Raw(text), hashlib.sha256(text).hexdigest()))
    staged = stage(folder / MANIFEST, msgspec.json.format(sealed, indent=1), 0o600)
    try:
        settle(staged, folder / MANIFEST)
    finally:
        staged.unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Return what a backup says of itself.

    Raises
    ------
    UsageError
        When the directory is not a backup.
    BadState
        When its manifest is damaged, or of another release.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{folder} is not a backup: it has no {MANIFEST}, which 'tidemill backup' writes last; name another one"
        ) from error
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        text = msgspec.json.encode(msgspec.json.decode(sealed.manifest))  # as it was before it was laid out for people
        if hashlib.sha256(text).hexdigest() != sealed.sha256:
            raise BadState(f"{path} is damaged (it does not have its own digest); use another backup")
        if msgspec.json.decode(text, type=_Format).format != FORMAT:
            raise BadState(f"{path} is of another release of Tidemill; restore it with that one")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadState(f"{path} is damaged ({error}); use another backup") from error


class _Format(msgspec.Struct):
    format: int


def digest_of(path: Path, done: Callable[[int], None] = lambda _: None) -> str:
    """Return the sha256 of a file; ``done`` is told of each piece's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file, None):
            sha.update(chunk)
            done(len(chunk))
    return sha.hexdigest()


def copy_file(source: Path, target: Path, size: int | None = None, done: Callable[[int], None] = lambda _: None) -> str:
    """Copy the first ``size`` bytes of a file, for this user alone, and return their sha256.

    Raises
    ------
    Unavailable
        When the disk refuses.
    """
    sha = hashlib.sha256()
    try:
        make_private(target.parent)
        with source.open("rb") as read, target.open("xb") as written:
            target.chmod(0o600)
            for chunk in _chunks(read, size):
                written.write(chunk)
                sha.update(chunk)
                done(len(chunk))
    except OSError as error:
        raise Unavailable(f"{target}: {error.strerror or error}; make room on its disk and begin again") from error
    return sha.hexdigest()


def make_private(folder: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700)


def sync() -> None:
    """Put all that was written on the disk itself: at once, and not file by file."""
    os.sync()


def _chunks(file: BinaryIO, size: int | None) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK if size is None else min(_CHUNK, size)):
        yield chunk
        size = None if size is None else size - len(chunk)
