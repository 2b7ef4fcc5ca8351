"""Optional augmentation: images instead of cached features, each altered by seed, step and sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from monai.utils import CommonKeys
from torch import Tensor

from invad_med.data.modalities import Modality
from invad_med.data.transforms import to_image
from invad_med.detection.host import Host
from invad_med.readers.sources import read_raster
from invad_med.training.cohort import Cohort
from invad_med.training.sampling import Draw
from invad_med.training.steps import FeatureDataset, keyed_generator


class AugmentedImages(torch.utils.data.Dataset):
    """Randomly altered images as MONAI items: ``image`` (3, H, W) in [0, 1], ``index`` and ``step``.

    Args:
        images: PNG, JPEG or TIFF files.
        modality: how they are prepared.
        augmentation: random MONAI transforms of (3, H, W).
        seed: of the run.
        size: side of the square image in pixels.
    """

    def __init__(self, images: Sequence[Path], modality: Modality, augmentation: Compose, seed: int, size: int) -> None:
        self.images, self.modality, self.augmentation = images, modality, augmentation
        self.seed, self.size = seed, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Draw) -> dict[str, Any]:
        path = self.images[key.sample]
        image = torch.from_numpy(to_image(read_raster(path), self.modality, self.size))
        generator = keyed_generator(self.seed + 2, key.step, key.sample)
        self.augmentation.set_random_state(int(torch.randint(2**31, (1,), generator=generator)))
        altered = torch.as_tensor(self.augmentation(image)).as_subclass(Tensor).clamp(0.0, 1.0)
        return {CommonKeys.IMAGE: altered, "index": key.sample, "step": key.step}


def enabled_augmentation(augmentation: Compose, enabled: bool) -> Compose | None:
    """Return the augmentation of a run: the given one, or None where it is not enabled."""
    return augmentation if enabled else None


def training_dataset(
    raw: Tensor, host: Host, cohort: Cohort, augmentation: Compose | None = None, seed: int = 0
) -> FeatureDataset | AugmentedImages:
    """Return the cached features ``raw`` of the cohort's training images, or, to augment, the images themselves."""
    if augmentation is None:
        return FeatureDataset(raw, host)
    return AugmentedImages(cohort.train, cohort.modality, augmentation, seed, host.image_size)
