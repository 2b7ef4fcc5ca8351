"""What is known of a split's images: label, whom each is of, and where it is abnormal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from invad_med.data.bmad import BmadDataset
from invad_med.data.mask_grid import mask_on_grid
from invad_med.data.masks import read_mask
from invad_med.data.modalities import Modality
from invad_med.data.slices import Slice
from invad_med.parallel import together
from invad_med.readers.sources import read_raster

SIZE = 256  # side of the square on which pixels are judged, the network's own
_Bits = tuple[np.ndarray, np.ndarray]  # mask and inside, eight pixels a byte


@dataclass(frozen=True)
class Truth:
    """The images of one split, in the order of class and name.

    A mask is placed on the square once, by `place` or when first asked for, and kept as bits: 16 KB an image.

    Args:
        root: folder of the data set.
        modality: how its images are prepared.
        images: N files.
        masks: N files or None.
        labels: (N,) int, 0 good, 1 Ungood.
        groups: (N,) int in [0, G): patient or other unit that is resampled as one; each image its own if unknown.
        grouped: whether groups come from a manifest.
        positions: (N,) float of each slice along the body, 0 to 1; NaN where unknown.
    """

    root: Path
    modality: Modality
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    labels: np.ndarray
    groups: np.ndarray
    grouped: bool
    positions: np.ndarray
    _placed: dict[int, _Bits] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_masks(self) -> bool:
        """Whether abnormal pixels are known: there is a mask for every abnormal image, and at least one."""
        abnormal = [mask for mask, label in zip(self.masks, self.labels, strict=True) if label]
        return bool(abnormal) and None not in abnormal

    @property
    def has_studies(self) -> bool:
        """Whether patients are known, and one has several images."""
        return self.grouped and len(set(self.groups.tolist())) < len(self.images)

    @property
    def both_classes(self) -> bool:
        """Whether there are normal and abnormal images."""
        return bool(0 < self.labels.sum() < len(self.labels))

    def normals(self) -> Truth:
        """Return the same without the abnormal images."""
        rows = np.flatnonzero(self.labels == 0)
        return replace(
            self,
            images=tuple(self.images[i] for i in rows),
            masks=tuple(self.masks[i] for i in rows),
            labels=self.labels[rows],
            groups=self.groups[rows],
            positions=self.positions[rows],
            _placed={},
        )

    def read(self, i: int) -> Slice:
        """Return image ``i``, decoded.

        Raises:
            ReadError: it cannot be read.
        """
        return read_raster(self.images[i])

    def place(self, i: int, image: Slice) -> None:
        """Place the mask of image ``i``, which is at hand, on the square."""
        path = self.masks[i]
        mask = read_mask(path) if path else np.zeros(image.pixels.shape[:2], dtype=bool)
        placed, inside = mask_on_grid(mask, image, self.modality, SIZE)
        self._placed[i] = np.packbits(placed), np.packbits(inside)

    def share_masks(self) -> None:
        """Take up the masks that the other processes have placed."""
        for placed in together(lambda: self._placed):
            self._placed.update(placed)

    def mask(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (mask, inside), each (256, 256) bool; an image without a mask file has no abnormal pixel."""
        if i not in self._placed:
            self.place(i, self.read(i))
        mask, inside = (np.unpackbits(bits).astype(bool).reshape(SIZE, SIZE) for bits in self._placed[i])
        return mask, inside


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
        np.array([np.nan if item.position is None else item.position for item in items]),
    )
