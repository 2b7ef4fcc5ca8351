"""PNG, JPEG and TIFF: grey 8-bit, grey deeper than 8 bit, or colour.

| stored | pixels | unit |
|---|---|---|
| 1-bit, 8-bit grey, RGB(A) or palette with equal channels | (H, W) float32, 0..255 | 8bit |
| RGB(A), palette, CMYK, YCbCr with real colour; alpha dropped | (H, W, 3) uint8 | 8bit |
| deeper or signed grey, float; 16-bit colour with equal channels | (H, W) float32, as stored | stored |
| 16-bit RGB(A) with real colour, from 0.5 to 99.5 percentile of all its values | (H, W, 3) uint8 | 8bit |

What else there is of samples is refused: see `invad_med.readers.samples`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from invad_med.data.own_results import OwnResult, is_marked
from invad_med.data.slices import RASTER_SUFFIXES, ReadError, Slice, Source
from invad_med.files import digest_of
from invad_med.readers.decoding import check_size, grey_or_colour, reading, value_range
from invad_med.readers.pages import count_slices
from invad_med.readers.samples import deep_pixels, samples_of, unidentified_tiff
from invad_med.readers.spool import Entry, Spool, pieces_of

SUFFIXES = RASTER_SUFFIXES
_FORMATS = ("PNG", "JPEG", "TIFF")
_ORIENTATION = 274  # EXIF
_OBLONG = 4.0  # of a pixel's sides, at most


def count_pages(path: Path, file: BinaryIO | None = None) -> int:
    """Return the number of pages of a TIFF, 1 for PNG and JPEG, from the headers alone.

    Args:
        path: the file.
        file: the same where it is open already, at its beginning; it stays open.

    Raises:
        OwnResult: a picture or map of an earlier run.
        ReadError: the file is empty, of another format, claims an absurd size, or holds pictures that are not the
            slices of one image.
    """
    with _open(path, file) as (image, _):
        with reading("image header"):
            if is_marked(image):
                raise OwnResult("result of an earlier run")
            return count_slices(image)


def read(source: Source) -> Sequence[Slice | ReadError]:
    """Decode every page, EXIF orientation applied.

    Raises:
        ReadError: truncated or corrupt data, non-finite values, or an absurd size.
    """
    spool = Spool(math.inf if source.n_slices == 1 else None)
    with _open(source.paths[0]) as (image, file):
        with reading("image data"):
            pages, sizes = [], set()
            for page in range(source.n_slices):
                turned = _on_its_side(image, page)
                array, is_deep = _page(image, page, file)
                sizes.add(array.shape[:2])
                pages.append((spool.append(array), is_deep, array.ndim == 3, _pixel_shape(image, turned)))
            digest = digest_of(file)
    if len(sizes) > 1:
        raise ReadError("pages of the TIFF differ in size; split it into files of one page")
    deep = [place for place, is_deep, *_ in pages if is_deep]
    shared = value_range(spool.at(deep)) if deep else (0.0, 255.0)
    entries: list[Entry] = []
    for index, (place, is_deep, colour, shape) in enumerate(pages):
        common = partial(Slice, source=source, index=index, spacing=shape, digest=digest)
        if is_deep and not colour:
            entries.append((partial(common, unit="stored", value_range=shared), place))
        else:
            make = partial(common, unit="8bit", value_range=(0.0, 255.0))
            entries.append((partial(_in_8_bit, make, shared) if is_deep else make, place))
    return pieces_of(entries, spool)


def _in_8_bit(make: Callable[..., Slice], shared: tuple[float, float], deep: np.ndarray) -> Slice:
    """Return the slice of a page in deep colour."""
    return make(_shown(deep, *shared))


@contextmanager
def _open(path: Path, file: BinaryIO | None = None) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Give an image that is not decoded yet, and the open file it is read from."""
    with reading("file"):
        if path.stat().st_size == 0:
            raise ReadError("empty file")
        own = path.open("rb") if file is None else None
    with own or nullcontext():  # not by its name, by which Pillow opens pages that are not compressed once more
        opened = file or own
        assert opened is not None
        yield _image(opened), opened


def _image(file: BinaryIO) -> Image.Image:
    with reading("file"):
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            damaged = ReadError("not a PNG, JPEG or TIFF image, or its header is damaged")
            raise unidentified_tiff(file) or damaged from None
        except Image.DecompressionBombError:
            raise ReadError("header claims too many pixels to be decoded safely; crop or tile the image") from None
        check_size(image.height, image.width)
    return image


def _page(image: Image.Image, page: int, file: BinaryIO) -> tuple[np.ndarray, bool]:
    """Return the pixels of one page, and whether they are deeper than 8 bit (then float32 in colour, too)."""
    if page:
        image.seek(page)
    check_size(image.height, image.width)
    deep = deep_pixels(image, samples_of(image, file), file)
    if deep is not None:
        return deep, True
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("1", "L", "LA", "La"):
        return np.asarray(upright.convert("L")).astype(np.float32), False
    return grey_or_colour(np.asarray(upright.convert("RGB"))), False


def _on_its_side(image: Image.Image, page: int) -> bool:
    """Return whether EXIF turns a page by a quarter; to be asked before it is decoded, which may turn it."""
    if page:
        image.seek(page)
    return image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)


def _pixel_shape(image: Image.Image, turned: bool) -> tuple[float, float] | None:
    """Return the distance of rows and of columns where a file says that they differ, as fax and video have it.

    Files state a resolution without meaning it; one that differs by direction, yet not absurdly, is meant.
    """
    info = image.info
    said = info.get("dpi") or info.get("aspect") or info.get("resolution")
    if said is None and info.get("jfif_unit") == 0:
        said = info.get("jfif_density")
    try:
        across, down = (float(value) for value in said or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (across > 0 and down > 0) or not 1.01 < max(across / down, down / across) <= _OBLONG:
        return None
    rows, columns = 25.4 / down, 25.4 / across
    return (columns, rows) if turned else (rows, columns)


def _shown(deep: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return deep colour (H, W, 3) in 8 bit, on the scale that its grey twin would be shown on."""
    scaled = (deep - low) / (high - low) if high > low else np.zeros_like(deep)
    return np.round(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
