"""Bilinear resizing of arrays, with Pillow: pixel centres lie at halves, and what shrinks is averaged, not sampled."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return planes (..., h, w) as (..., H, W) float32, each for itself.

    Equal to `torch.nn.functional.interpolate` with ``mode="bilinear", align_corners=False, antialias=True``.

    Args:
        planes: real numbers.
        size: (H, W), each at least 1.
    """
    planes = np.ascontiguousarray(planes, dtype=np.float32)
    height, width = size
    if planes.shape[-2:] == (height, width):
        return planes
    result = np.empty((*planes.shape[:-2], height, width), np.float32)
    for place in np.ndindex(planes.shape[:-2]):
        result[place] = np.asarray(Image.fromarray(planes[place]).resize((width, height), Image.Resampling.BILINEAR))
    return result
