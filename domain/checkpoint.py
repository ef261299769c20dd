"""A version as one value: a line's whole state, its offsets, watermark and lineage, as one signed safetensors file.

The manifest is canonical JSON in the file's header; the arrays are the line's. The signature covers the manifest, the
manifest the sha256 of every array, and the header is written in one way only: so a file of which a single bit was
changed is refused, and nothing in it is unpickled before all of that is known to be ours. What is ours must then also
be *true here*: its state must have the recorded digest, and its probe vectors give the recorded predictions.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from domain.config import Model
from domain.errors import ArtifactRefused, BadState
from domain.features import FEATURES, TARGETS
from domain.fleet import Line
from domain.lines import Kind
from domain.tables import Floats

FORMAT = 4
PROBES = 64
"""Questions kept with a version; its predictions for them are replayed before it may serve."""

LIBRARIES = ("numpy", "numba", "river", "safetensors")


@cache
def _installed() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class Checkpoint:
    """A line and where it stands.

    Attributes
    ----------
    line
        The models, baselines and scores.
    interval, horizon : int
        Nanoseconds: what the line was trained for.
    offsets : ``{"topic/partition": next offset}``
        Where its input continues; empty for a line trained from the lake.
    kind : how it came about
    parent : number of the version before it, None for the first
    snapshot : the lake's snapshot that the line was first trained from
    probes : float64[p, 16]
        Recent vectors.
    logs : ``{"topic": identity}``
        Of the logs that the offsets belong to: in a topic made anew they mean nothing.
    begins : int
        Where the training window began, ns; it ends at the line's ``since``.
    without : ``((from, until), ...)``
        Windows (ns) of which nothing was learned, see ``assets.unlearning``.
    """

    line: Line
    interval: int
    horizon: int
    offsets: dict[str, int] = field(default_factory=dict)
    kind: Kind = "update"
    parent: int | None = None
    snapshot: int | None = None
    probes: Floats = field(default_factory=lambda: np.empty((0, len(FEATURES))))
    logs: dict[str, str] = field(default_factory=dict)
    begins: int = 0
    without: tuple[tuple[int, int], ...] = ()

    def to_bytes(self, key: bytes) -> bytes:
        """Return the file.

        Parameters
        ----------
        key : whoever holds it can sign versions, and so decide what others unpickle

        Raises
        ------
        BadState
            When a champion or its state is not finite: such a version must not exist.
        """
        line = self.line
        manifest = {
            "format": FORMAT,
            "line": line.name,
            "features": FEATURES,
            "targets": TARGETS,
            "interval": self.interval,
            "horizon": self.horizon,
            "fleet": [model.model_dump(mode="json") for model in line.fleet],
            "champions": line.champions,
            "watermark": line.watermark,
            "n_learned": line.n_learned,
            "begins": self.begins,
            "since": line.since,
            "offsets": self.offsets,
            "logs": self.logs,
            "without": self.without,
            "kind": self.kind,
            "parent": self.parent,
            "snapshot": self.snapshot,
            "digest": line.digest(),
            "libraries": _installed(),
        }
        arrays = {name: np.ascontiguousarray(a) for name, a in line.arrays().items()}
        arrays["probes/x"] = np.ascontiguousarray(self.probes)
        arrays["probes/predicted"] = np.ascontiguousarray(line.predict(self.probes))
        served = ("probes/", "guard/", *(f"model/{name}/" for name in line.champions.values()))
        for name, array in arrays.items():
            if name.startswith(served) and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadState(f"{line.name}: {name} is not finite; restart from the last version")
        manifest["members"] = {name: _digest(name, array) for name, array in arrays.items()}
        text = _canonical(manifest | {"hmac": _sign(manifest, key)})
        return bytes(save(arrays, metadata={"manifest": text}))

    @classmethod
    def from_bytes(cls, data: bytes, key: bytes) -> Checkpoint:
        """Return the checkpoint in the file.

        Raises
        ------
        ArtifactRefused
            When the file is damaged, signed with another key, of another format or schema, or does not predict what
            it recorded.
        """
        manifest = read_manifest(data, key)
        try:
            arrays = _members(data, manifest)
            probes = {name: arrays.pop(f"probes/{name}") for name in ("x", "predicted")}
            line = Line(manifest["line"], tuple(Model(**model) for model in manifest["fleet"]))
            line.restore(arrays)
            line.watermark, line.n_learned, line.since = (manifest[k] for k in ("watermark", "n_learned", "since"))
            digest, predicted = line.digest(), line.predict(probes["x"])
            found = cls(
                line, manifest["interval"], manifest["horizon"], manifest["offsets"], manifest["kind"],
                manifest["parent"], manifest["snapshot"], probes["x"], manifest["logs"], manifest["begins"],
                tuple((start, end) for start, end in manifest["without"]),
            )  # fmt: skip
        except ArtifactRefused:
            raise
        except Exception as error:  # it is ours, but other libraries may fail on it in any way
            raise ArtifactRefused(
                f"version file cannot be restored here ({type(error).__name__}: {error}); use another version"
            ) from error
        if not hmac.compare_digest(digest, str(manifest["digest"])):
            raise ArtifactRefused(f"{line.name}: state does not have the recorded digest; use another version")
        if not np.array_equal(predicted, probes["predicted"]) or not np.isfinite(predicted).all():
            raise ArtifactRefused(
                f"{line.name}: probe vectors give other predictions here ({_libraries(manifest)}); rebuild by replay"
            )
        return found


def read_manifest(data: bytes, key: bytes) -> dict[str, Any]:
    """Return the manifest in the header of a version file, verified; its arrays are not looked at.

    Raises
    ------
    ArtifactRefused
        When the header is damaged, was not signed with this key, or is of another format or feature set.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + length].decode()
        header = json.loads(text)
        signed = header["__metadata__"]["manifest"]
        manifest = dict(json.loads(signed))
        signature = str(manifest.pop("hmac"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactRefused(
            f"version file's header is damaged ({type(error).__name__}: {error}); use another version"
        ) from error
    if not hmac.compare_digest(signature.encode(), _sign(manifest, key).encode()):
        raise ArtifactRefused(
            "version file is damaged or was signed with another key; use another version, or the key it was made with"
        )
    # Of what means the same, only what we would write: no second spelling of a header passes.
    plain = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    if text != plain + " " * (-len(plain.encode()) % 8) or signed != _canonical(manifest | {"hmac": signature}):
        raise ArtifactRefused("version file's header is not spelled as it was written; use another version")
    schema = [manifest.get(name) for name in ("format", "features", "targets")]
    if schema != [FORMAT, [*FEATURES], [*TARGETS]]:
        raise ArtifactRefused("version has another format or feature set than this program; train a new initial model")
    return manifest


def _members(data: bytes, manifest: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays, every one of them as the manifest says."""
    try:
        arrays = dict(load(data))
    except SafetensorError as error:
        raise ArtifactRefused(f"version file is damaged ({error}); use another version") from error
    recorded = manifest["members"]
    if arrays.keys() != recorded.keys():
        raise ArtifactRefused("version file lacks a member or has one too many; use another version")
    wrong = [name for name, array in arrays.items() if not hmac.compare_digest(_digest(name, array), recorded[name])]
    if wrong:
        raise ArtifactRefused(f"version file's member {wrong[0]} is not the recorded one; use another version")
    return arrays


def _canonical(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _sign(manifest: Mapping[str, Any], key: bytes) -> str:
    return hmac.digest(key, _canonical(manifest).encode(), "sha256").hex()


def _digest(name: str, array: np.ndarray[Any, Any]) -> str:
    """Return a sha256 of a member: of its name too, so that no two can change places."""
    sha = hashlib.sha256(f"{name}|{array.dtype.str}{array.shape}:".encode())
    sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _libraries(manifest: Mapping[str, Any]) -> str:
    """Return where the libraries differ from those that it was made with, in words."""
    was, here = manifest["libraries"], _installed()
    differ = [f"{name} {here[name]}, was {was.get(name)}" for name in here if here[name] != was.get(name)]
    return ", ".join(differ) or "the libraries are the same"
