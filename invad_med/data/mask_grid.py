"""A mask placed as its slice is."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from invad_med.data.modalities import Modality
from invad_med.data.slices import Slice
from invad_med.data.transforms import padded


def mask_on_grid(mask: np.ndarray, piece: Slice, modality: Modality, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask (H, W) bool as `to_image` places the slice, and which pixels of the square are the slice at all.

    A pixel of the square is abnormal where at least half of the area it covers is.

    Returns:
        (mask, inside), each (size, size) bool; where a slice is padded, ``inside`` is false.

    Raises:
        ValueError: the mask is not of the slice's size.
    """
    if mask.shape != piece.pixels.shape[:2]:
        raise ValueError(f"mask of shape {mask.shape} for an image of {piece.pixels.shape[:2]}")
    both = padded(np.stack([mask, np.ones_like(mask)]).astype(np.float32), piece, modality)
    square = F.interpolate(torch.from_numpy(both)[None], size=(size, size), mode="area")[0] >= 0.5
    return square[0].numpy(), square[1].numpy()
