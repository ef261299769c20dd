"""A disk with a volatile cache: what the real code did to it, and every state it may legally be in after a power loss.

The model is harsher than file systems are: of what was written since a file's last sync any subset of sectors of 512
bytes may be there, at any length in between; of the names given and taken since a directory's last sync any subset; a
file's sync says nothing of its name, and a directory's nothing of that directory's own name.
"""

import contextlib
import io
import itertools
import math
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple
from unittest import mock

SECTOR = 512
ROOT = 0

TORN = -1
"""What a loader reports that took for good what nobody saved."""

_CALLS = [(io, "open"), *((os, name) for name in ("open", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"))]
_CALLS += [(os, name) for name in ("writev", "truncate", "ftruncate", "fsync")]


class Wrote(NamedTuple):
    inode: int
    content: bytes


class Named(NamedTuple):
    """One change of a directory: a link, an unlink, or both at once, which is a rename."""

    directory: int
    names: tuple[tuple[str, int | None], ...]


class Synced(NamedTuple):
    inode: int


class Acknowledged(NamedTuple):
    value: int


class Recorder:
    """Watches a directory while the real code works in it: each call that changes names or syncs is an event.

    Writes are seen by their effect, before and after each such call. What is written between two of them is one change
    to the model, which lets any part of it be lost anyway.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[object] = []
        self._read = io.open
        self._known: dict[str, int] = {"": ROOT}  # path -> our number of the inode
        self._numbers: dict[int, int] = {root.stat().st_ino: ROOT}  # the system's number -> ours
        self._contents: dict[int, bytes | None] = {ROOT: None}

    @contextlib.contextmanager
    def watching(self):
        real = [(module, name, getattr(module, name)) for module, name in _CALLS]
        for module, name, call in real:
            setattr(module, name, self._watched(name, call))
        try:
            yield self
        finally:
            for module, name, call in real:
                setattr(module, name, call)

    def acknowledge(self, value: int) -> None:
        self._observe()
        self.events.append(Acknowledged(value))

    def _watched(self, name, call):
        def watched(*arguments, **keywords):
            self._observe()
            if name == "fsync":
                number = self._numbers.get(os.fstat(arguments[0]).st_ino)
                if number is not None:
                    self.events.append(Synced(number))
            result = call(*arguments, **keywords)
            self._observe()
            return result

        return watched

    def _observe(self) -> None:
        there, contents = {"": ROOT}, {ROOT: None}
        numbers = {self.root.stat().st_ino: ROOT}
        for top, directories, files in os.walk(self.root):
            for name in directories + files:
                path = Path(top, name)
                inode = path.stat().st_ino
                number = self._numbers.get(inode)
                if number is None:
                    number = 1 + max(itertools.chain(self._contents, contents))
                numbers[inode] = number
                there[str(path.relative_to(self.root))] = number
                if name in directories:
                    contents[number] = None
                else:
                    with self._read(path, "rb") as file:
                        contents[number] = file.read()
        changed = {path for path in self._known.keys() | there.keys() if self._known.get(path) != there.get(path)}
        by_directory: dict[str, list[str]] = {}
        for path in sorted(changed):
            by_directory.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120 - a name, not a file
        for directory, paths in by_directory.items():
            number = there.get(directory, self._known.get(directory))
            self.events.append(Named(number, tuple((os.path.basename(p), there.get(p)) for p in paths)))  # noqa: PTH119
        for number, content in contents.items():
            if content is not None and self._contents.get(number, b"") != content:
                self.events.append(Wrote(number, content))
        self._known, self._numbers = there, numbers
        self._contents = {**self._contents, **contents}


class Disk:
    """The state of a disk on the way through the events of a recording."""

    def __init__(self, rng: random.Random, choices: int) -> None:
        self.rng = rng
        self.choices = choices
        self.files: dict[int, list[bytes]] = {}  # durable content, then each since
        self.durable: dict[int, dict[str, int]] = {ROOT: {}}
        self.pending: dict[int, list[Named]] = {}

    def apply(self, event: object) -> None:
        match event:
            case Wrote(inode, content):
                self.files.setdefault(inode, [b""]).append(content)
            case Named(directory, _):
                self.pending.setdefault(directory, []).append(event)
            case Synced(inode):
                if inode in self.files:
                    self.files[inode] = self.files[inode][-1:]
                if inode in self.pending:
                    self.durable[inode] = _after(self.durable.get(inode, {}), self.pending.pop(inode))

    def trees(self) -> list[dict[str, int]]:
        """Every tree of names: path -> inode."""
        names = {inode: [entries] for inode, entries in self.durable.items()}
        for inode, pending in self.pending.items():
            subsets = _subsets(pending, self.rng, self.choices)
            names[inode] = _distinct(_after(self.durable.get(inode, {}), subset) for subset in subsets)
        inodes, choices = list(names), list(names.values())
        return _distinct(_tree(dict(zip(inodes, chosen, strict=True))) for chosen in itertools.product(*choices))

    def contents(self, inode: int) -> list[bytes]:
        """Every content that the file may have."""
        versions = self.files.get(inode, [b""])
        if len(versions) == 1:
            return versions
        lengths = {len(version) for version in versions}
        lengths |= set(range(min(lengths) // SECTOR * SECTOR + SECTOR, max(lengths), SECTOR))
        found = dict.fromkeys((versions[0], versions[-1]))
        share = max(1, self.choices // len(lengths))
        for length in sorted(lengths):
            sectors = [_sectors(versions, at) for at in range(0, length, SECTOR)]
            if math.prod(map(len, sectors)) <= share:
                mixed = itertools.product(*sectors)
            else:
                mixed = ([self.rng.choice(o) for o in sectors] for _ in range(share))
            found.update(dict.fromkeys(b"".join(chosen)[:length] for chosen in mixed))
        return list(found)


def _after(entries, changes):
    entries = dict(entries)
    for change in changes:
        for name, inode in change.names:
            if inode is None:
                entries.pop(name, None)
            else:
                entries[name] = inode
    return entries


def _subsets(pending, rng, choices):
    if 1 << len(pending) <= choices:
        masks = range(1 << len(pending))
    else:
        masks = [0, (1 << len(pending)) - 1, *(rng.getrandbits(len(pending)) for _ in range(choices))]
    return [[change for i, change in enumerate(pending) if mask >> i & 1] for mask in masks]


def _distinct(dictionaries):
    return list({tuple(sorted(entries.items())): entries for entries in dictionaries}.values())


def _sectors(versions, at):
    return list(dict.fromkeys(version[at : at + SECTOR].ljust(SECTOR, b"\0") for version in versions))


def _tree(names, inode=ROOT, prefix=""):
    tree = {}
    for name, child in names.get(inode, {}).items():
        tree[prefix + name] = child
        tree.update(_tree(names, child, f"{prefix}{name}/"))
    return tree


class Tally(NamedTuple):
    """What an enumeration came to."""

    states: int
    images: int
    violations: list[str]


def enumerate_states(events, story, scratch: Path, *, choices: int, seen=None, first: bool = False) -> Tally:
    """Load every state (or a sample) of every crash point; return how many, and which break the promise.

    Parameters
    ----------
    events : of a recording; after each of them the power may go
    story : its ``load`` is the real loader: given a directory, it returns the newest value there, ``TORN`` for what was
        never saved; ``ignores`` tells the files that loaders never open, because their names are temporary
    scratch : where an image is laid out for the loader, once for all the states that it cannot tell apart
    choices : of one file's content, or one directory's names, at one crash point: all there are, or a sample as large
    seen : what loading came to before, by image: for a story told again with one event less
    first : stop at the first violation
    """
    rng = random.Random(1)
    disk, acknowledged, states = Disk(rng, choices), 0, 0
    directories = {ROOT} | {event.directory for event in events if isinstance(event, Named)}
    seen = {} if seen is None else seen
    violations: list[str] = []
    for at, event in enumerate(events):
        disk.apply(event)
        if isinstance(event, Acknowledged):
            acknowledged = event.value
        for image in _images(disk, directories, choices, rng):
            states += 1
            told_apart = tuple([part for part in image if not story.ignores(part[0])])
            found = seen.get(told_apart)
            if found is None:
                found = seen[told_apart] = _loaded(image, story.load, scratch)
            if isinstance(found, str) or found < acknowledged:
                violations.append(f"after event {at} {str(event)[:80]}: {found}, acknowledged {acknowledged}")
                if first:
                    return Tally(states, len(seen), violations)
    return Tally(states, len(seen), violations)


def _images(disk, directories, choices, rng):
    """Yield images: (path, content) of every file, (path, None) of every directory."""
    trees = disk.trees()
    contents = {i: disk.contents(i) for tree in trees for i in tree.values() if i not in directories}
    images = [[[(p, c) for c in contents.get(i, [None])] for p, i in sorted(tree.items())] for tree in trees]
    total = sum(math.prod(map(len, options)) for options in images)
    if total <= 2 * choices:
        for options in images:
            yield from itertools.product(*options)
        return
    for _ in range(2 * choices):
        yield tuple([option[int(rng.random() * len(option))] for option in rng.choice(images)])


def _loaded(image, load, scratch):
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for path, content in image:
        if content is None:
            (scratch / path).mkdir()
        else:
            (scratch / path).write_bytes(content)
    try:
        with mock.patch("os.fsync"):  # an image need not survive anything
            found = load(scratch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the loader did not load
        return f"unloadable: {error!r}"[:200]
    return "torn" if found == TORN else found
