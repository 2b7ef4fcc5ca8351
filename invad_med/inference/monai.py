"""MONAI shells round the pipeline: an `Input` to the networks' image, a batch to the detectors, and a map back.

What rides along with an image, its slice included, is in lists, not stacked: give `collate` to the data loader. Models
may take images of different sizes: each image is made at its own model's, and in a batch the smaller ones stand in the
corner of a larger square until `DetectorInferer` takes them out again.
"""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform

from invad_med.data.contrast import judged
from invad_med.data.prediction import Detection
from invad_med.data.slices import ReadError, Slice
from invad_med.detection import AnomalyDetector, Detectors, ModelFiles
from invad_med.files import data_digest
from invad_med.inference.inputs import Input
from invad_med.inference.pipeline import map_back, prepare, together
from invad_med.readers.sources import SourceReader


class LoadSliced(MapTransform):
    """Replace each key's `Input` by its image (3, size, size) float32 in [0, 1]; one broken file stops nothing.

    Adds ``input``, what was there; ``modality``, its model's; ``size``, the image's side; ``slice``, the decoded
    `Slice`, or the `ReadError` that says why it could not be read or shows nothing: the image is then black and its
    result is not to be used; and ``readable``, which of the two. A source whose slices are asked for in order is
    decoded once by every process that loads.

    Args:
        keys: usually ``image``.
        size: side of the square in pixels, of all images or by name of their modality.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, size: int | Mapping[str, int] = 256, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.reader = SourceReader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with images for inputs."""
        item = dict(data)
        for key in self.key_iterator(item):
            entry: Input = item[key]
            name = entry.modality.name
            size = self.size[name] if isinstance(self.size, Mapping) else self.size
            piece = judged(self.reader.get(entry.source, entry.index), entry.modality)
            image = torch.zeros(3, size, size)
            if isinstance(piece, Slice):
                image = torch.from_numpy(prepare(entry, piece, size))
            readable = isinstance(piece, Slice)
            item |= {key: image, "input": entry, "slice": piece, "modality": name, "size": size, "readable": readable}
        return item


class MapToSliced(MapTransform):
    """Bring each key's map (1, size, size) onto the grid of the slice it was made from: (1, H, W).

    The item holds that slice and its size, as `LoadSliced` left them; what a batch filled up is cut off.

    Args:
        keys: usually ``pred``.
        allow_missing_keys: as in MONAI.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its maps on the slice's grid; those of unreadable slices stay as they are."""
        item = dict(data)
        if not isinstance(item["slice"], ReadError):
            for key in self.key_iterator(item):
                anomaly = torch.as_tensor(item[key])[0, : item["size"], : item["size"]].numpy(force=True)
                item[key] = torch.from_numpy(map_back(item["input"], item["slice"], anomaly))[None]
        return item


@dataclass(frozen=True)
class Carried:
    """An object that rides along in a MONAI batch: a scalar to ``decollate_batch``, taken out by its ``item()``."""

    value: Any
    ndim: ClassVar[int] = 0

    def item(self) -> Any:
        """Return the object."""
        return self.value


def collate(items: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    """Return the items of `LoadSliced` as a batch: tensors stacked, words and objects in lists.

    Images of several sizes are filled up with zeros, right and below, to the largest; ``size`` says how much is theirs.
    MONAI's evaluator takes such a batch apart again. It may come from another process.
    """
    return {key: _together([item[key] for item in items]) for key in items[0]}


def stacked(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return images (C, h, w) as one tensor (B, C, H, W), smaller ones filled up with zeros right and below."""
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    return torch.stack([F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images])


def _together(values: list[Any]) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        return stacked(values)
    return values if all(isinstance(value, str) for value in values) else [Carried(value) for value in values]


class DetectorsNetwork(Detectors, torch.nn.Module):
    """The models of a run as the network of a MONAI evaluator.

    Args:
        files, others: as of `invad_med.detection.Detectors`.
        detector: the default's, a `invad_med.detection.AnomalyDetector`, if it is not to be loaded from its file.
        device: where it is put, and others compute.

    Attributes:
        mark: text that is another one for another given detector, as its file says nothing of it; empty without one.
    """

    def __init__(
        self,
        files: ModelFiles,
        detector: AnomalyDetector | None = None,
        device: torch.device | str | int = "cpu",
        **others: Any,
    ) -> None:
        torch.nn.Module.__init__(self)
        own = None if detector is None else detector.to(device).eval()
        self.mark = "" if own is None else _digest_of(own)
        Detectors.__init__(self, files, own, device=device, **others)

    def forward(self, image: torch.Tensor, modalities: Sequence[str] | None = None) -> list[Detection]:
        """Return `Detectors.detect` of images (B, 3, H, W) on any device."""
        return self.detect(image.numpy(force=True), modalities)


def _digest_of(network: torch.nn.Module) -> str:
    """Return a digest of a network: its state, and the code of its modules besides that of packages with a version."""
    state = io.BytesIO()
    torch.save(network.state_dict(), state)
    kinds = {type(module) for module in network.modules()}
    own = {kind for kind in kinds if kind.__module__.partition(".")[0] not in ("invad_med", "monai", "timm", "torch")}
    sources = {Path(source) for kind in own if (source := _source_of(kind))}
    return hashlib.sha256(state.getbuffer()).hexdigest() + data_digest(list(sources))


def _source_of(kind: type) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except (OSError, TypeError):  # written in a session
        return None


class DetectorInferer(Inferer):
    """What MONAI's evaluator calls: hand the batch to the detectors, which do the rest."""

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Any,
        modalities: Sequence[str],
        sizes: Sequence[Carried],
        readable: Sequence[Carried] | None = None,
    ) -> list[Detection]:
        """Return what the detectors say of every image at its own size, in their order; see `together`.

        Args:
            inputs: (B, 3, H, W) in [0, 1], as `collate` makes it.
            network: a `DetectorsNetwork`.
            modalities: B names.
            sizes: B sides in pixels of what is the image's own.
            readable: B times whether it is the image of a slice; all where None.
        """
        sides = [carried.item() for carried in sizes]
        good = [True] * len(sides) if readable is None else [carried.item() for carried in readable]
        found: dict[int, Detection] = {}
        for group in together(sides, good, modalities, network.alone):
            size = sides[group[0]]
            images = inputs[group][..., :size, :size]
            found |= zip(group, network(images, [modalities[i] for i in group]), strict=True)
        return [found.get(i) or Detection(map=np.zeros((s, s), np.float32)) for i, s in enumerate(sides)]
