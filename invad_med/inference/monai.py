"""MONAI shells round the pipeline: an `Input` to the networks' image, a batch to the detectors, and a map back.

What rides along with an image, its slice included, is in lists, not stacked: give `collate` to the data loader.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform

from invad_med.data.contrast import judged
from invad_med.data.slices import ReadError
from invad_med.inference.inputs import Input
from invad_med.inference.pipeline import detect, map_back, prepare
from invad_med.readers.sources import SourceReader


class LoadSliced(MapTransform):
    """Replace each key's `Input` by its image (3, size, size) float32 in [0, 1]; one broken file stops nothing.

    Adds ``input``, what was there; ``modality``, its model's; and ``slice``, the decoded `Slice`, or the `ReadError`
    that says why it could not be read or shows nothing: the image is then black and its result is not to be used. A
    source whose slices are asked for in order is decoded once by every process that loads.

    Args:
        keys: usually ``image``.
        size: side of the square in pixels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, size: int = 256, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.reader = SourceReader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with images for inputs."""
        item = dict(data)
        for key in self.key_iterator(item):
            entry: Input = item[key]
            piece = judged(self.reader.get(entry.source, entry.index), entry.modality)
            if isinstance(piece, ReadError):
                image = torch.zeros(3, self.size, self.size)
            else:
                image = prepare(entry, piece, self.size)
            item |= {key: image, "input": entry, "slice": piece, "modality": entry.modality.name}
        return item


class MapToSliced(MapTransform):
    """Bring each key's map (1, size, size) onto the grid of the slice it was made from: (1, H, W).

    The item holds that slice, as `LoadSliced` left it.

    Args:
        keys: usually ``pred``.
        allow_missing_keys: as in MONAI.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its maps on the slice's grid; those of unreadable slices stay as they are."""
        item = dict(data)
        if not isinstance(item["slice"], ReadError):
            for key in self.key_iterator(item):
                item[key] = map_back(item["input"], item["slice"], torch.as_tensor(item[key])[0])[None]
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

    MONAI's evaluator takes such a batch apart again. It may come from another process.
    """
    return {key: _together([item[key] for item in items]) for key in items[0]}


def _together(values: list[Any]) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        return torch.stack(values)
    return values if all(isinstance(value, str) for value in values) else [Carried(value) for value in values]


class DetectorInferer(Inferer):
    """What MONAI's evaluator calls: hand the batch to the detectors, which do the rest."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return `invad_med.inference.pipeline.detect` of the network, which is a `Detectors`."""
        return detect(network, inputs, *args, **kwargs)  # type: ignore[arg-type]
