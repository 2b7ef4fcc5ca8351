"""PNG, JPEG and TIFF: grey 8-bit, grey deeper than 8 bit, or colour.

| stored | pixels | unit |
|---|---|---|
| 1-bit, 8-bit grey, RGB(A) or palette with equal channels | (H, W) float32, 0..255 | 8bit |
| RGB(A), palette, CMYK, YCbCr with real colour; alpha dropped | (H, W, 3) uint8 | 8bit |
| 16-bit or 32-bit grey, float TIFF | (H, W) float32, as stored | stored |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from invad_med.data.slices import RASTER_SUFFIXES, ReadError, Slice, Source
from invad_med.readers.decoding import check_size, grey_or_colour, reading, value_range

SUFFIXES = RASTER_SUFFIXES
_FORMATS = ("PNG", "JPEG", "TIFF")
_DEEP = ("I", "F")  # Pillow modes of grey deeper than 8 bit, with I;16 and its kin
_MIN_IS_WHITE = 0  # TIFF PhotometricInterpretation; Pillow inverts 8-bit images itself, deeper ones not


def count_pages(path: Path) -> int:
    """Return the number of pages of a TIFF, 1 for PNG and JPEG, from the headers alone.

    Raises:
        ReadError: the file is empty, of another format, or claims an absurd size.
    """
    with _open(path) as image:
        return getattr(image, "n_frames", 1) if image.format == "TIFF" else 1


def read(source: Source) -> list[Slice | ReadError]:
    """Decode every page, EXIF orientation applied.

    Raises:
        ReadError: truncated or corrupt data, non-finite values, or an absurd size.
    """
    with _open(source.paths[0]) as image:
        with reading("image data"):
            arrays = [_page(image, page) for page in range(source.n_slices)]
    if len({array.shape[:2] for array, _ in arrays}) > 1:
        raise ReadError("pages of the TIFF differ in size; split it into files of one page")
    deep = [array for array, is_deep in arrays if is_deep]
    shared = value_range(deep) if deep else (0.0, 255.0)
    return [
        Slice(array, source, index, "stored" if is_deep else "8bit", shared if is_deep else (0.0, 255.0))
        for index, (array, is_deep) in enumerate(arrays)
    ]


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    with reading("file"):
        if path.stat().st_size == 0:
            raise ReadError("empty file")
        file = path.open("rb")
    with file:  # not by its name, by which Pillow opens pages that are not compressed once more
        yield _image(file)


def _image(file: BinaryIO) -> Image.Image:
    with reading("file"):
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ReadError("not a PNG, JPEG or TIFF image, or its header is damaged") from None
        except Image.DecompressionBombError:
            raise ReadError("header claims too many pixels to be decoded safely; crop or tile the image") from None
        check_size(image.height, image.width)
    return image


def _page(image: Image.Image, page: int) -> tuple[np.ndarray, bool]:
    """Return the pixels of one page, and whether they are deeper than 8 bit."""
    if page:
        image.seek(page)
    check_size(image.height, image.width)
    inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == _MIN_IS_WHITE
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(_DEEP):
        array = np.asarray(upright).astype(np.float32)
        if not np.isfinite(array).all():
            raise ReadError("image holds NaN or infinite values; replace them before")
        if inverted and upright.mode.startswith("I;16"):
            array = 65535 - array
        return array, True
    if upright.mode in ("1", "L", "LA", "La"):
        return np.asarray(upright.convert("L")).astype(np.float32), False
    return grey_or_colour(np.asarray(upright.convert("RGB"))), False
