"""Single images, PNG, JPEG, TIFF, BMP or DICOM, by the package's own readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.layout import PrepError
from invad_med.data.bmad_folders import is_stray
from invad_med.data.masks import read_mask
from invad_med.data.slices import RASTER_SUFFIXES, ReadError, Slice
from invad_med.readers import sources

_SUFFIXES = RASTER_SUFFIXES | {".bmp"}  # as RESC is released


def find_pictures(source: Path) -> list[Path]:
    """All image files below a folder, sorted.

    Raises:
        PrepError: it is no folder.
    """
    if not source.is_dir():
        raise PrepError(f"{source} is not a folder")
    return sorted(p for p in source.rglob("*") if p.suffix.casefold() in _SUFFIXES and not is_stray(p))


def read_grey(path: Path) -> np.ndarray:
    """Read an 8-bit grey image, or a colour image as grey: (H, W) uint8, the values of the file.

    Raises:
        PrepError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise PrepError(f"{path} cannot be read: {error}") from None


def read_marks(path: Path) -> np.ndarray:
    """Read an image's mask: (H, W) bool, by the rule of `invad_med.data.masks`.

    Raises:
        PrepError: it cannot be read.
    """
    try:
        return read_mask(path)
    except ReadError as error:
        raise PrepError(f"{path} cannot be read: {error}") from None


def read_one(path: Path) -> Slice:
    """Read a file of one slice as inference would.

    Raises:
        PrepError: it cannot be read, or holds several.
    """
    try:
        scan = sources.scan(path)
        if scan.problems:
            raise ReadError(scan.problems[0].reason)
        if len(scan.sources) != 1 or scan.sources[0].n_slices != 1:
            raise ReadError("holds more than one image")
        return sources.read_slice(scan.sources[0], 0)
    except (ReadError, OSError, ValueError) as error:
        raise PrepError(f"{path} cannot be read: {error}") from None
