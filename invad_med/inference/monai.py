"""MONAI shells: an `Input` to the networks' image, a batch to the detectors, and a map back onto the slice's grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform

from invad_med.data.slices import ReadError
from invad_med.data.transforms import from_image, to_image
from invad_med.inference.inputs import Input, Inputs
from invad_med.readers.sources import read_slice


class LoadSliced(MapTransform):
    """Replace each key's `Input` by its image (3, size, size) float32 in [0, 1]; one broken file stops nothing.

    Adds ``modality`` (its model's) and ``problem``: empty, or why the slice could not be read; the image is
    then black and its result is not to be used.

    Args:
        keys: usually ``image``.
        size: side of the square in pixels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, size: int = 256, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with images for inputs."""
        item = dict(data)
        for key in self.key_iterator(item):
            wanted: Input = item[key]
            problem = ""
            try:
                image = to_image(read_slice(wanted.source, wanted.index), wanted.modality, self.size)
            except ReadError as error:
                image, problem = torch.zeros(3, self.size, self.size), str(error)
            item |= {key: image, "modality": wanted.modality.name, "problem": problem}
        return item


class MapToSliced(MapTransform):
    """Bring each key's map (1, size, size) onto the grid of the slice it was made from: (1, H, W).

    Args:
        keys: usually ``pred``.
        inputs: where an item's position ``item`` leads to its slice.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, inputs: Inputs, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.inputs = inputs

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its maps on the slice's grid; those of unreadable slices stay as they are."""
        item = dict(data)
        if item["problem"]:
            return item
        wanted = self.inputs.items[int(item["item"])]
        piece = read_slice(wanted.source, wanted.index)
        for key in self.key_iterator(item):
            item[key] = from_image(torch.as_tensor(item[key])[0].cpu(), piece, wanted.modality)[None]
        return item


@dataclass(frozen=True)
class Carried:
    """An object that rides along in a MONAI batch: a scalar to ``decollate_batch``, taken out by its ``item()``."""

    value: Any
    ndim: ClassVar[int] = 0

    def item(self) -> Any:
        """Return the object."""
        return self.value


class DetectorInferer(Inferer):
    """What MONAI's evaluator calls: hand the batch to the detectors, which do the rest."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return ``network(inputs, *args, **kwargs)`` without gradients."""
        with torch.no_grad():
            return network(inputs, *args, **kwargs)
