"""From a slice to what the networks take, and a map back onto the slice's own grid: one recipe per modality.

1. Intensity to [0, 1]: 8-bit images keep their display range; CT is windowed as the table says; anything else is
   scaled by the 0.5 and 99.5 percentile of its whole source, so that slices of a volume share one scale.
2. Shape to a square: padded with black to equal extent in mm (``fit: pad``) or stretched as BMAD does (``stretch``).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invad_med.data.modalities import Modality, Window
from invad_med.data.slices import Slice


def to_unit(piece: Slice, modality: Modality) -> np.ndarray:
    """Return the slice's intensities in [0, 1]: (H, W) float32, or (H, W, 3) where colour matters.

    A window applies to Hounsfield units: CT from DICOM, and NIfTI of a modality that has one.
    """
    pixels = piece.pixels.astype(np.float32)
    if pixels.ndim == 3 and not modality.colour:
        pixels = pixels.mean(axis=2)  # a colour map over grey, such as the blue tint of BMAD's Brain PNGs
    if piece.unit == "8bit":
        low, high = 0.0, 255.0
    elif isinstance(modality.intensity, Window) and (piece.unit == "HU" or piece.source.kind == "nifti"):
        low, high = modality.intensity.low, modality.intensity.high
    else:
        low, high = piece.value_range
    if high <= low:
        return np.zeros_like(pixels)
    return np.clip((pixels - low) / (high - low), 0.0, 1.0)


def to_image(piece: Slice, modality: Modality, size: int = 256) -> Tensor:
    """Return the slice as a network's input: (3, size, size) float32 in [0, 1], grey repeated."""
    unit = torch.from_numpy(to_unit(piece, modality))
    channels = unit[None].expand(3, -1, -1) if unit.ndim == 2 else unit.permute(2, 0, 1)
    top, bottom, left, right = _padding(piece, modality)
    padded = F.pad(channels, (left, right, top, bottom))
    return F.interpolate(padded[None], size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]


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
    top, bottom, left, right = _padding(piece, modality)
    both = torch.from_numpy(np.stack([mask, np.ones_like(mask)])).float()
    square = F.interpolate(F.pad(both, (left, right, top, bottom))[None], size=(size, size), mode="area")[0] >= 0.5
    return square[0].numpy(), square[1].numpy()


def from_image(maps: Tensor, piece: Slice, modality: Modality) -> Tensor:
    """Return a map (size, size) of `to_image`'s result on the slice's own grid: (H, W), bilinear."""
    height, width = piece.pixels.shape[:2]
    top, bottom, left, right = _padding(piece, modality)
    whole = F.interpolate(
        maps[None, None], size=(top + height + bottom, left + width + right), mode="bilinear", align_corners=False
    )[0, 0]
    return whole[top : top + height, left : left + width]


def square_of(piece: Slice, modality: Modality) -> tuple[int, int]:
    """Return (rows, columns) in the slice's own pixels of what `to_image` makes square before it is resized."""
    height, width = piece.pixels.shape[:2]
    top, bottom, left, right = _padding(piece, modality)
    return top + height + bottom, left + width + right


def _padding(piece: Slice, modality: Modality) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) pixels that make the slice square in mm (in pixels if spacing is unknown)."""
    if modality.fit == "stretch":
        return 0, 0, 0, 0
    height, width = piece.pixels.shape[:2]
    rows, columns = piece.spacing or (1.0, 1.0)
    side = max(height * rows, width * columns)
    extra_rows, extra_columns = round(side / rows) - height, round(side / columns) - width
    top, left = extra_rows // 2, extra_columns // 2
    return top, extra_rows - top, left, extra_columns - left
