"""A version as one value: a line's whole state, its offsets, watermark and lineage, as one safetensors file.

The manifest is canonical JSON in the file's header; the arrays are the line's. Who reads one gets all of it or an
error: the seal covers the manifest and the probes, the digest in the manifest covers the state and is computed again,
and the probe vectors must give the recorded predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from domain.config import Model
from domain.errors import ArtifactRefused, BadState
from domain.features import FEATURES, TARGETS
from domain.fleet import Line
from domain.tables import Floats

FORMAT = 3
PROBES = 16
"""Questions kept with a version; its predictions for them are replayed before it may serve."""


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
    kind : ``initial`` or ``update``
    parent : number of the version before it, None for the first
    snapshot : the lake's snapshot that the line was first trained from
    probes : float64[p, 16]
        Recent vectors.
    logs : ``{"topic": identity}``
        Of the logs that the offsets belong to: in a topic made anew they mean nothing.
    """

    line: Line
    interval: int
    horizon: int
    offsets: dict[str, int] = field(default_factory=dict)
    kind: str = "update"
    parent: int | None = None
    snapshot: int | None = None
    probes: Floats = field(default_factory=lambda: np.empty((0, len(FEATURES))))
    logs: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file.

        Raises
        ------
        BadState
            When a champion or its state is not finite: such a version must not exist.
        """
        line = self.line
        manifest = {
            "format": FORMAT,
            "instrument": line.instrument,
            "features": FEATURES,
            "targets": TARGETS,
            "interval": self.interval,
            "horizon": self.horizon,
            "fleet": [model.model_dump(mode="json") for model in line.fleet],
            "champions": line.champions,
            "watermark": line.watermark,
            "n_learned": line.n_learned,
            "since": line.since,
            "offsets": self.offsets,
            "logs": self.logs,
            "kind": self.kind,
            "parent": self.parent,
            "snapshot": self.snapshot,
            "digest": line.digest(),
            "libraries": {name: version(name) for name in ("numpy", "numba", "river", "safetensors")},
        }
        arrays = {name: np.ascontiguousarray(a) for name, a in line.arrays().items()}
        arrays["probes/x"] = np.ascontiguousarray(self.probes)
        arrays["probes/predicted"] = np.ascontiguousarray(line.predict(self.probes))
        served = ("probes/", "guard/", *(f"model/{name}/" for name in line.champions.values()))
        for name, array in arrays.items():
            if name.startswith(served) and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadState(f"{line.instrument}: {name} is not finite; restart from the last version")
        text = _canonical(manifest | {"seal": _seal(manifest, arrays)})
        return bytes(save(arrays, metadata={"manifest": text}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Return the checkpoint in the file.

        Raises
        ------
        ArtifactRefused
            When the file is damaged, of another format or schema, or does not predict what it recorded.
        """
        try:
            manifest = read_manifest(data)
            arrays = load(data)
            if manifest["format"] != FORMAT or tuple(manifest["features"]) != FEATURES:
                raise ArtifactRefused(
                    "version has another format or feature set than this program; train a new initial model"
                )
            if manifest.pop("seal") != _seal(manifest, arrays):
                raise ArtifactRefused("version file's manifest or probes are not what was sealed; use another version")
            probes = {name: arrays.pop(f"probes/{name}") for name in ("x", "predicted")}
            line = Line(manifest["instrument"], tuple(Model(**model) for model in manifest["fleet"]))
            line.restore(arrays)
            line.watermark, line.n_learned, line.since = (manifest[k] for k in ("watermark", "n_learned", "since"))
            digest = line.digest()
        except (SafetensorError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ArtifactRefused(f"version file is damaged ({error}); use another version") from error
        if digest != manifest["digest"]:
            raise ArtifactRefused(f"{line.instrument}: state does not have the recorded digest; use another version")
        predicted = line.predict(probes["x"])
        if not np.array_equal(predicted, probes["predicted"]) or not np.isfinite(predicted).all():
            raise ArtifactRefused(f"{line.instrument}: probe vectors give other predictions here; rebuild by replay")
        return cls(
            line, manifest["interval"], manifest["horizon"], manifest["offsets"], manifest["kind"], manifest["parent"],
            manifest["snapshot"], probes["x"], manifest["logs"],
        )  # fmt: skip


def _canonical(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _seal(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return a sha256 of what the digest leaves out: the manifest itself and the probes."""
    sha = hashlib.sha256(_canonical(manifest).encode())
    for name in ("probes/x", "probes/predicted"):
        sha.update(f"|{arrays[name].dtype.str}{arrays[name].shape}:".encode() + arrays[name].tobytes())
    return sha.hexdigest()


def read_manifest(data: bytes) -> dict[str, Any]:
    """Return the manifest in the header of a version file, without loading its arrays."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return dict(json.loads(header["__metadata__"]["manifest"]))
