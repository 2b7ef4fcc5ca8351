"""What is known of a split's images: label, whom each is of, and where it is abnormal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from invad_med.data.bmad import BmadDataset, read_mask
from invad_med.data.modalities import Modality
from invad_med.data.slices import Slice
from invad_med.data.transforms import mask_on_grid
from invad_med.readers.sources import read_raster

SIZE = 256  # side of the square on which pixels are judged, the network's own


@dataclass(frozen=True)
class Truth:
    """The images of one split, in the order of class and name.

    Args:
        root: folder of the data set.
        modality: how its images are prepared.
        images: N files.
        masks: N files or None.
        labels: (N,) int, 0 good, 1 Ungood.
        groups: (N,) int in [0, G): patient or other unit that is resampled as one; each image its own if unknown.
        grouped: whether groups come from a manifest.
    """

    root: Path
    modality: Modality
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    labels: np.ndarray
    groups: np.ndarray
    grouped: bool
    _placed: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_masks(self) -> bool:
        """Whether abnormal pixels are known: there is a mask for every abnormal image, and at least one."""
        abnormal = [mask for mask, label in zip(self.masks, self.labels, strict=True) if label]
        return bool(abnormal) and None not in abnormal

    def piece(self, i: int) -> Slice:
        """Return image ``i``, decoded.

        Raises:
            ReadError: it cannot be read.
        """
        return read_raster(self.images[i])

    def mask(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (mask, inside), each (256, 256) bool; an image without a mask file has no abnormal pixel.

        Image and mask are decoded once, however many scores are judged; what is kept is 16 kB an image.
        """
        if i not in self._placed:
            piece, path = self.piece(i), self.masks[i]
            mask = read_mask(path) if path else np.zeros(piece.pixels.shape[:2], dtype=bool)
            placed, inside = mask_on_grid(mask, piece, self.modality, SIZE)
            self._placed[i] = np.packbits(placed), np.packbits(inside)
        placed, inside = (np.unpackbits(bits).reshape(SIZE, SIZE).astype(bool) for bits in self._placed[i])
        return placed, inside


def read_truth(dataset: BmadDataset, split: str, modality: Modality) -> Truth:
    """Return what is known of a split.

    Raises:
        ValueError: it has no image.
    """
    items = [item for item in dataset.items if item.split == split]
    if not items:
        raise ValueError(f"no image in its {split} split: give --split, or a data set that has one")
    grouped = any(item.group for item in items)
    names = [item.group or str(item.image) for item in items]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Truth(
        dataset.root,
        modality,
        tuple(item.image for item in items),
        tuple(item.mask for item in items),
        np.array([item.label for item in items]),
        np.array([place[name] for name in names]),
        grouped,
    )
