"""From a slice to what the networks take, and a map back onto the slice's own grid: one recipe per modality.

1. Intensity to [0, 1]: 8-bit images keep their display range; CT is windowed as the table says; anything else is
   scaled by the 0.5 and 99.5 percentile of its whole source, so that slices of a volume share one scale.
2. Shape to a square: padded with black to equal extent in mm (``fit: pad``) or stretched as BMAD does (``stretch``).
"""

from __future__ import annotations

import numpy as np

from invad_med.data.modalities import Modality, Window
from invad_med.data.resizing import resize
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


def to_image(piece: Slice, modality: Modality, size: int = 256) -> np.ndarray:
    """Return the slice as a network's input: (3, size, size) float32 in [0, 1], grey repeated."""
    unit = to_unit(piece, modality)
    planes = unit[None] if unit.ndim == 2 else unit.transpose(2, 0, 1)
    square = resize(padded(planes, piece, modality), (size, size))
    return np.ascontiguousarray(np.broadcast_to(square, (3, size, size)))


def padded(planes: np.ndarray, piece: Slice, modality: Modality) -> np.ndarray:
    """Return planes (..., H, W) of the slice's size with the zeros round them that make it square."""
    top, bottom, left, right = _padding(piece, modality)
    if not any((top, bottom, left, right)):
        return planes
    around = [(0, 0)] * (planes.ndim - 2)
    return np.pad(planes, [*around, (top, bottom), (left, right)])


def from_image(anomaly: np.ndarray, piece: Slice, modality: Modality) -> np.ndarray:
    """Return a map (size, size) of `to_image`'s result on the slice's own grid: (H, W) float32, bilinear."""
    height, width = piece.pixels.shape[:2]
    top, _, left, _ = _padding(piece, modality)
    return resize(anomaly, square_of(piece, modality))[top : top + height, left : left + width]


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
