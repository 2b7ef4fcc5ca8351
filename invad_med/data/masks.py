"""Mask files: which of their pixels are marked as anomalous.

===============================  =====================================================================================
file                             marked
===============================  =====================================================================================
PNG, TIFF, BMP of any depth      what is not 0 as stored, before any cast, in any channel but alpha; palettes by colour
JPEG, also inside a TIFF         at least 128 in any channel: a lossy file has noise around 0 and around 255
===============================  =====================================================================================

BMAD's masks are 0/255, 0/1, or BraTS labels through the ``bone`` colour map, whose greys differ by label; a threshold
at 127 would lose some of them, which is why it is for lossy files alone. EXIF orientation is applied, as to images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from invad_med.data.slices import ReadError

LOSSY_LIMIT = 128  # half of the 8-bit range


def read_mask(path: Path | str) -> np.ndarray:
    """Read a mask as (H, W) bool, by the rule of the module.

    Raises:
        ReadError: it cannot be read, holds NaN, or colour of 16 bit, of which only the upper 8 could be seen. Which
            file it is standard error says alone, as of images.
    """
    try:
        return _read(path)
    except (OSError, SyntaxError, ValueError) as error:
        print(f"mask cannot be read: {path}", file=sys.stderr)
        named = isinstance(error, OSError | SyntaxError)
        reason = (getattr(error, "strerror", "") or "it is damaged or no image") if named else str(error)
        raise ReadError(f"a mask cannot be read: {reason}") from error


def _read(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        lossy = is_lossy(image)
        rawmode = str(image.tile[0][3]) if image.tile else ""  # such as "RGB;16B", alone or in a tuple
        upright = ImageOps.exif_transpose(image)
        shown = upright.convert("RGB") if upright.mode in ("P", "PA") else upright
        values, bands = np.asarray(shown), shown.getbands()
    if values.ndim == 3:
        if "16" in rawmode:
            raise ValueError("a mask in colour, or with alpha, of 16 bit is not read whole: save it as grey")
        values = values[..., [i for i, band in enumerate(bands) if band not in ("A", "a")]]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a mask with NaN or infinite values does not say what is marked: set them to 0")
    marked = np.asarray(values >= LOSSY_LIMIT if lossy else values != 0)
    return np.asarray(marked.any(axis=-1)) if marked.ndim == 3 else marked


def is_lossy(image: Image.Image) -> bool:
    """Return whether an open image is stored with losses, by its content, not by its name."""
    return image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression", ""))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an open image as its EXIF orientation shows it, from the header alone."""
    turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size
