"""Synthetic patients as images: 8-bit slices with masks, as a cohort holds them, and NIfTI volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
from PIL import Image

from data_prep.synthetic import Lesion, Patient
from data_prep.template import Z_RANGE, X, Y

SIZE = 256  # pixels of a written slice, both ways
MIN_MASK_PIXELS = 12  # a slice with less lesion than this, but some, is neither normal nor fairly abnormal: left out
Z_STEP = 2.0  # mm between the slices of a volume
_FIELD = float(len(Y))  # mm, side of a slice once padded to a square


def to_8bit(volume: np.ndarray) -> np.ndarray:
    """Scale a whole volume from its 0.5..99.5 percentile range to 0..255 uint8."""
    low, high = np.percentile(volume, (0.5, 99.5))
    return np.round(np.clip((volume - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def to_square(image: np.ndarray) -> np.ndarray:
    """Pad an 8-bit slice (233, 197) of 1 mm pixels to a square and resize it, linearly, to (256, 256)."""
    side = (image.shape[0] - image.shape[1]) // 2
    padded = Image.fromarray(np.pad(image, ((0, 0), (side, side))))
    return np.asarray(padded.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _square_axes() -> tuple[np.ndarray, np.ndarray]:
    """x (256,) of the columns and y (256,) of the rows of a written slice, in mm."""
    offset = (np.arange(SIZE) + 0.5) * _FIELD / SIZE
    return X.mean() + _FIELD / 2 - offset, Y[0] + 0.5 - offset


def grid_point(row: int, column: int) -> tuple[float, float]:
    """(x, y) in RAS mm of a pixel's centre in a slice that `Patient.render` images."""
    return float(X[column]), float(Y[row])


def to_pixel(centre: Sequence[float]) -> tuple[float, float]:
    """(row, column) in a written slice, pixel centres at whole numbers, of a point in RAS mm."""
    x, y = _square_axes()
    step = _FIELD / SIZE
    return (y[0] - centre[1]) / step, (x[0] - centre[0]) / step


@dataclass(frozen=True)
class PhantomSlice:
    """A slice of a cohort: image and mask (256, 256) uint8 (mask 0 or 255), its number, height, lesions."""

    image: np.ndarray
    mask: np.ndarray
    index: int
    z: float
    lesions: tuple[Lesion, ...]


def slices(patient: Patient, count: int = 12) -> list[PhantomSlice]:
    """Image ``count`` evenly spaced axial slices of the central range, from a start of the patient's own.

    Slices that a lesion only grazes (fewer than 12 mask pixels, or soft edge without mask) are left out.
    """
    step = (Z_RANGE[1] - Z_RANGE[0]) / count
    heights = Z_RANGE[0] + step * (np.arange(count) + np.random.default_rng([patient.seed, patient.number, 3]).random())
    images = to_8bit(patient.render(heights))
    x, y = _square_axes()
    result = []
    for index, z in enumerate(heights):
        here = np.full(1, z)
        areas = {lesion: (lesion.distance(x, y[:, None], here) <= 1.0).sum() for lesion in patient.lesions}
        grazed = [k for k, n in areas.items() if n < MIN_MASK_PIXELS and k.profile(x, y[:, None], here).max() > 0.05]
        if grazed:
            continue
        mask = patient.mask(x, y[:, None], here).astype(np.uint8) * 255
        found = tuple(lesion for lesion, area in areas.items() if area)
        result.append(PhantomSlice(to_square(images[index]), mask, index, float(z), found))
    return result


def volume(patient: Patient) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
    """Image the central range as a volume of 30 slices, 2 mm apart with 1 mm pixels, on the template's grid.

    Returns:
        Image (uint8, white matter about 200) and lesion mask (uint8, 0 or 1), both (197, 233, 30), RAS.
    """
    z = np.arange(Z_RANGE[0], Z_RANGE[1] + Z_STEP / 2, Z_STEP)
    image = np.round(np.clip(patient.render(z) * 220.0, 0, 255)).astype(np.uint8)
    mask = patient.mask(X, Y[:, None], z[:, None, None]).astype(np.uint8)
    affine = np.diag([1.0, 1.0, Z_STEP, 1.0])
    affine[:3, 3] = (X[-1], Y[-1], z[0])
    made = []
    for data in (image, mask):
        # (z, y falling, x falling) to (x, y, z rising)
        nifti = nibabel.Nifti1Image(np.ascontiguousarray(data[:, ::-1, ::-1].transpose(2, 1, 0)), affine)
        nifti.header.set_xyzt_units("mm")
        nifti.set_sform(affine, "mni")
        nifti.set_qform(affine, "mni")
        made.append(nifti)
    return made[0], made[1]
