"""Graphs of whole detectors: ONNX without weights, one for all checkpoints that compute alike, shipped or kept.

A graph's weights are named as a checkpoint names them, and lie outside it; `Graph.fill` takes them from the checkpoint.
Graphs of the preset that models ship for lie in the package; others are exported when they are first asked for and kept
in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from invad_med.data.provenance import Provenance
from invad_med.files import code_digest, write_atomically
from invad_med.serving.weights import Weights

logger = logging.getLogger(__name__)

_HOST = "features"  # the kind that graphs are made of
_DAMAGED = (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, TypeError, AttributeError, ValueError)
_SHIPPED = Path(__file__).with_name("graphs")
_BESIDES = ("_extra_state", "studies._extra_state")  # in a checkpoint, and no graph's
_CODE = ("diffusion.py", "hosts", "networks", "scoring", "detection")  # what a graph is made from


@dataclass(frozen=True)
class GraphKey:
    """All that a graph depends on beside the code that makes it.

    Args:
        architecture: plain values that rebuild the host, see `invad_med.hosts.host.Architecture.to_plain`.
        timesteps: pairs (t, t_next) of the inversion.
        rule: of score and map; None where these have no calibrated meaning: the map is then the end point's norm.
    """

    architecture: Mapping[str, Any]
    timesteps: tuple[tuple[int, int | None], ...]
    rule: str | None

    @classmethod
    def of(cls, weights: Weights, timesteps: tuple[tuple[int, int | None], ...] | None = None) -> GraphKey:
        """Return the key of a checkpoint.

        Args:
            weights: the opened checkpoint.
            timesteps: instead of those that it was calibrated for.

        Raises:
            ValueError: it is not calibrated and no timesteps are given, was written by version 0.1, or is of a host,
                preset or rule of the user's own in this process.
        """
        values = weights.values
        if "calibration._extra_state" not in values or "calibration.reference" not in values:
            raise ValueError("the checkpoint is of version 0.1 or of no detector: --engine eager serves the former")
        stated = weights.read("calibration._extra_state")
        calibrated = tuple((t, t_next) for t, t_next in stated["timesteps"])
        chosen = calibrated if timesteps is None else timesteps
        if not chosen:
            raise ValueError("the checkpoint is not calibrated and no timesteps are given")
        fitted = values["calibration.reference"].shape[0] > 0
        provenance = Provenance.from_state(weights.read("_extra_state") if "_extra_state" in values else {})
        rule = stated["score"] if fitted and chosen == calibrated else None
        _refuse_own(provenance.architecture, stated["score"])
        return cls(provenance.architecture, chosen, rule)

    def to_json(self) -> str:
        """Return the key as canonical text."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """16 hex digits that name the key."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


# Where entries of your own are made, whose names say nothing of what they do: known if this process has imported them.
_TABLES = (
    ("invad_med.detection.host", "HOSTS", "host"),
    ("invad_med.networks.presets", "PRESETS", "preset"),
    ("invad_med.scoring.rules", "RULES", "rule"),
)


def _refuse_own(architecture: Mapping[str, Any], rule: str) -> None:
    kind = architecture.get("host", _HOST)
    if kind != _HOST:
        raise ValueError(f"the checkpoint is of a host {kind!r}, which no graph is made of: --engine eager")
    stated = {**architecture, "rule": rule}
    for module, table, what in _TABLES:
        loaded, name = sys.modules.get(module), stated.get(what)
        if loaded is not None and getattr(loaded, table).get(name) is not loaded.AS_SHIPPED.get(name):
            raise ValueError(f"the {what} {name!r} is of your own, and graphs are of the package's: --engine eager")


@dataclass(frozen=True)
class Graph:
    """A detector without weights, of one image.

    Args:
        model: serialised ONNX; input ``image`` (1, 3, S, S) float32 in [0, 1].
        weights: name in a checkpoint -> (dtype, shape), for all that lies outside the model.
        names: of all that a checkpoint of the detector may hold besides its provenance and the calibration of studies.
    """

    model: bytes
    weights: Mapping[str, tuple[str, tuple[int, ...]]]
    names: tuple[str, ...] = ()

    def to_bytes(self, key: GraphKey) -> bytes:
        """Return the content of a file that holds the graph; the same for the same graph."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            about = json.dumps({"key": key.to_json(), "names": self.names, "weights": self.weights}, sort_keys=True)
            for name, content in (("about.json", about.encode()), ("model.onnx", self.model)):
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return file.getvalue()

    @classmethod
    def from_file(cls, path: Path, key: GraphKey) -> Graph:
        """Return the graph that a file holds.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: it is damaged, or of another key.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                about, model = json.loads(archive.read("about.json")), archive.read("model.onnx")
            stored = {name: (dtype, tuple(shape)) for name, (dtype, shape) in about["weights"].items()}
            graph = cls(model, stored, tuple(about["names"]))
            same = about["key"] == key.to_json()
        except _DAMAGED as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
        if not same:
            raise ValueError(f"{path} holds another graph")
        return graph

    def fill(self, weights: Weights) -> dict[str, np.ndarray]:
        """Return the graph's weights from an opened checkpoint, as the graph takes them.

        Raises:
            ValueError: what is missing, not expected or of another shape, by name; numbers that are not finite.
        """
        unexpected = sorted(set(weights.values) - {*self.names, *_BESIDES})
        if unexpected:
            raise ValueError(f"the checkpoint does not fit the graph; not expected: {', '.join(unexpected[:8])}")
        arrays = {}
        for name, (dtype, shape) in self.weights.items():
            array = weights.read(name).astype(dtype, copy=False)
            if array.shape != shape:
                raise ValueError(
                    f"the checkpoint does not fit the graph: {name} is {array.shape} in the checkpoint, {shape} in the "
                    "graph"
                )
            arrays[name] = finite(name, array)
            if name.startswith("calibration.") and name.endswith("_std") and not (array > 0).all():
                raise ValueError(f"the checkpoint is damaged: {name} holds deviations that are not above 0")
        return arrays


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of a checkpoint.

    Raises:
        ValueError: it has NaN or infinite values.
    """
    if not np.isfinite(array).all():
        raise ValueError(f"the checkpoint has NaN or infinite values ({name}): its training diverged")
    return array


def find_graph(key: GraphKey) -> Graph | None:
    """Return the graph that ships or is kept for a key; None: there is none yet, or it is damaged."""
    for path_of in (shipped_path, kept_path):
        try:
            return Graph.from_file(path_of(key), key)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("the graph is made anew: %s", error)
    return None


def keep_graph(key: GraphKey, graph: Graph) -> None:
    """Keep a graph for the next time; where the cache folder cannot be written, say so in the log."""
    try:
        write_atomically(kept_path(key), graph.to_bytes(key))
    except OSError as error:
        logger.warning("the graph is not kept and will be exported again: %s", error)


def shipped_path(key: GraphKey) -> Path:
    """Return where the package would have a key's graph."""
    return _SHIPPED / f"{key.digest}.zip"


def kept_path(key: GraphKey) -> Path:
    """Return where a key's graph is kept; another version of what makes graphs has another place.

    Raises:
        FileNotFoundError: the user has no home folder, and ``XDG_CACHE_HOME`` is not set.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError("no home folder, and XDG_CACHE_HOME is not set") from error
    name = hashlib.sha256((key.to_json() + _maker()).encode()).hexdigest()[:32]
    return base / "invad-med" / "graphs" / f"{name}.zip"


@cache
def _maker() -> str:
    """Return the versions of the packages, and a digest of the code, that graphs are made by."""
    versions = []
    for name in ("torch", "timm", "onnx", "onnxscript"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(name)
    return " ".join([code_digest(_CODE), *versions])
