"""Fingerprints: of a service's own part of the configuration, and of the source files that it can import.

A service is out of date when its fingerprint is not today's. Nothing is imported to find out: the sources are parsed,
and each is read again only when its time or size has changed.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from domain.config import Project
from domain.services import FLOW

ROOT = Path(__file__).parents[1]
PACKAGES = ("domain", "markets", "warehouse", "streaming", "assets", "orchestration")

COMPOSITION_ROOT, SETTINGS = "orchestration.bootstrap", "orchestration.settings"
"""Where a service begins. The command line, which hands the second's answer to the first, is no part of a service."""


def config_digest(project: Project, name: str) -> str:
    """Return a digest of those settings that the service reads."""
    said = project.model_dump(mode="json")
    values = {setting: _at(said, setting) for setting in FLOW[name].settings}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def code_version(name: str) -> str:
    """Return Tidemill's version and a digest of the files that this service can import."""
    tree = _tree()
    if _known.tree != tree:
        _known.tree, _known.versions = tree, {}
    if name not in _known.versions:
        sha = hashlib.sha256()
        for path in sorted(_closure(name, tree)):
            sha.update(f"{path.relative_to(ROOT).as_posix()} {_read(path, tree[path]).digest}\n".encode())
        _known.versions[name] = f"{version('tidemill')}+{sha.hexdigest()[:8]}"
    return _known.versions[name]


def sources_of(name: str) -> set[Path]:
    """Return the files below our packages that the service can import, and the data files that those read.

    Notes
    -----
    Imports inside functions count, for most of ours are lazy; those under ``TYPE_CHECKING`` do not. In the composition
    root the builders of other services are left out. A file that cannot be parsed imports nothing, but counts.
    """
    return _closure(name, _tree())


Stamp = tuple[int, int]
"""Time of the last change, ns, and size: a file with the same stamp is not read again."""


@dataclass(frozen=True)
class _Source:
    """A file as it was when it had this stamp; ``imports`` are pairs of function ('' outside of any) and module."""

    stamp: Stamp
    digest: str
    imports: tuple[tuple[str, str], ...]
    reads_data: bool


@dataclass
class _Known:
    """What was found out before: each file, and the versions of the services as long as no file changes."""

    sources: dict[Path, _Source] = field(default_factory=dict)
    tree: dict[Path, Stamp] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


_known = _Known()


def _tree() -> dict[Path, Stamp]:
    """Return every file below our packages with its stamp."""
    tree: dict[Path, Stamp] = {}
    waiting = [str(ROOT / package) for package in PACKAGES]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting += [entry.path] if entry.name != "__pycache__" else []
                    continue
                with contextlib.suppress(FileNotFoundError):  # an editor's, gone again
                    stat = entry.stat()
                    tree[Path(entry.path)] = stat.st_mtime_ns, stat.st_size
    return tree


def _closure(name: str, tree: Mapping[Path, Stamp]) -> set[Path]:
    others = frozenset(f"_{other}" for other in ("broker", "exchange", *FLOW) if other != name)
    found: set[Path] = set()
    waiting = [COMPOSITION_ROOT, SETTINGS]
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        for path in _files_of(module):
            if path not in tree or path in found:
                continue
            found.add(path)
            source = _read(path, tree[path])
            skipped = others if module == COMPOSITION_ROOT else frozenset[str]()
            wanted = {imported for importer, imported in source.imports if importer not in skipped} - seen
            seen |= wanted
            waiting += wanted
            if source.reads_data:
                found |= {data for data in tree if data.suffix != ".py" and data.is_relative_to(path.parent)}
    return found


def _read(path: Path, stamp: Stamp) -> _Source:
    known = _known.sources.get(path)
    if known is None or known.stamp != stamp:
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # since the look at the tree; the next one will see it
            data = b""
        known = _known.sources[path] = _parsed(data, stamp, is_code=path.suffix == ".py")
    return known


def _parsed(data: bytes, stamp: Stamp, *, is_code: bool) -> _Source:
    imports: list[tuple[str, str]] = []
    if is_code:
        try:
            imports = list(_imports(ast.parse(data).body, ""))
        except (SyntaxError, ValueError):  # an editor is half-way, or a person; a rehearsal will say which
            imports = []
    ours = tuple(dict.fromkeys(one for one in imports if one[1].partition(".")[0] in PACKAGES))
    reads_data = any(imported.startswith("importlib.resources") for _, imported in imports)
    return _Source(stamp, hashlib.sha256(data).hexdigest(), ours, reads_data)


def _imports(statements: Iterable[ast.AST], function: str) -> Iterator[tuple[str, str]]:
    for node in statements:
        if isinstance(node, ast.Import):
            yield from ((function, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield function, node.module
            # What is taken from a package may be a module of it.
            yield from ((function, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in {
            getattr(node.test, "id", ""),
            getattr(node.test, "attr", ""),
        }:
            yield from _imports(node.orelse, function)
        else:
            inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not function else function
            for block in ("body", "orelse", "handlers", "finalbody", "cases"):
                # Of an expression a body is no list, and no statement is in it.
                found = getattr(node, block, None)
                yield from _imports(found if isinstance(found, list) else (), inner)


def _files_of(module: str) -> Iterator[Path]:
    """Yield the module's file and those of the packages around it, as far as they exist."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        yield ROOT.joinpath(*parts[:depth], "__init__.py")
    yield ROOT.joinpath(*parts).with_suffix(".py")


def _at(values: object, setting: str) -> object:
    for part in setting.split("."):
        values = values[part] if isinstance(values, dict) else None
    return values
