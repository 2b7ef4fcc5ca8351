"""Pixels of PNG and TIFF as the file states them: bit depth, sign and kind of its samples, not Pillow's mode.

Pillow opens 16-bit colour and grey with alpha as 8 bit by leaving out the low byte, and has no unsigned 32-bit and no
signed 8-bit mode. Its decoders are used all the same: the low bytes come by decoding once more with the other byte
order, the rest by taking the bits for what they are.

| samples | pixels |
|---|---|
| 1 to 8 bit, unsigned | as Pillow has them, 8 bit |
| 9 to 16 bit grey, with or without alpha; 32-bit integers; float | float32, as stored |
| 16-bit RGB(A) | float32 (H, W, 3), as stored; grey where the channels are equal |
| signed or float colour; 16-bit CMYK, YCbCr, Lab or separate planes; unlike samples; 64-bit integers | refused |
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from invad_med.data.slices import ReadError

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_KINDS = {_UNSIGNED: "unsigned integer", _SIGNED: "signed integer", _FLOAT: "floating-point"}
_WHITE_IS_ZERO, _RGB = 0, 2  # TIFF PhotometricInterpretation; Pillow inverts 8-bit images itself, deeper ones not
_SEPARATE = 2  # TIFF PlanarConfiguration
_NATIVE_LOW = "B" if sys.byteorder == "little" else "L"
_OTHER_BYTE = {  # raw mode that takes the high byte of a sample: raw mode that takes the low one
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX", "RGBa")
    for order, other in (("B", "L"), ("L", "B"), ("N", _NATIVE_LOW))
}
_ADVICE = "; save it as 8-bit or 16-bit grey or RGB, or as 32-bit float"


@dataclass(frozen=True)
class Samples:
    """What one pixel of a page is made of.

    Args:
        bits: of one sample.
        count: of a pixel, alpha included.
        kind: 1 unsigned, 2 signed, 3 float, as TIFF's SampleFormat has it.
        white_is_zero: small values are bright.
        colours: grey 1, RGB 3; other colour spaces 4.
        separate: a plane for each sample.
    """

    bits: int
    count: int = 1
    kind: int = _UNSIGNED
    white_is_zero: bool = False
    colours: int = 1
    separate: bool = False


def samples_of(image: Image.Image, file: BinaryIO) -> Samples:
    """Return what the pixels of the page at hand are made of; of JPEG always 8 bit.

    Raises:
        ReadError: a TIFF whose samples differ from one another.
    """
    if image.format == "PNG":
        header = _content(file, 26)
        count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[25], 1)
        return Samples(header[24], count, colours=3 if count > 2 else 1)
    if image.format == "TIFF":
        return _of_tags(getattr(image, "tag_v2", {}))
    return Samples(8, len(image.getbands()), colours=3 if len(image.getbands()) > 2 else 1)


def deep_pixels(image: Image.Image, samples: Samples, file: BinaryIO) -> np.ndarray | None:
    """Return the pixels of a page of more than 8 bit: (H, W) or (H, W, 3) float32, upright; None if it has no more.

    Raises:
        ReadError: samples that are not read, or values that are not finite.
    """
    if samples.bits <= 8 and samples.kind == _UNSIGNED:
        return None
    if samples.count > 1:
        array = _colour(image, samples, file)
    else:
        array = np.asarray(ImageOps.exif_transpose(image))
        if samples.kind == _SIGNED and samples.bits == 8:
            array = array.astype(np.uint8).view(np.int8)
        elif samples.kind == _UNSIGNED and samples.bits == 32 and array.dtype.kind == "i":
            array = array.astype(np.int32).view(np.uint32)
        if samples.white_is_zero:
            if samples.kind != _UNSIGNED:
                raise refused(samples)
            array = (2**samples.bits - 1) - array.astype(np.int64)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ReadError("image holds NaN or infinite values; replace them before")
    return values


def refused(samples: Samples) -> ReadError:
    """Return the reason why samples are not read."""
    colour = " in separate planes" if samples.separate and samples.count > 1 else ""
    white = " with white as zero" if samples.white_is_zero else ""
    plural = "" if samples.count == 1 else "s"
    kind = _KINDS.get(samples.kind, "unknown")
    return ReadError(
        f"pixels of {samples.count} {samples.bits}-bit {kind} sample{plural}{colour}{white} are not read{_ADVICE}"
    )


def unidentified_tiff(file: BinaryIO) -> ReadError | None:
    """Return why Pillow does not open a file that is a TIFF, or None if its header cannot be read."""
    try:
        file.seek(0)
        start = file.read(8)
        if start[2:4] in (b"\x2b\0", b"\0\x2b"):
            start += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        return refused(_of_tags(tags))
    except ReadError as error:
        return error
    except Exception:
        return None


def _of_tags(tags: Any) -> Samples:
    bits = _tuple(tags.get(258, 1))
    kinds = _tuple(tags.get(339, _UNSIGNED))
    count = int(tags.get(277, len(bits)))
    if len(set(bits)) > 1 or len(set(kinds)) > 1:
        raise ReadError(f"samples of one pixel differ: {', '.join(map(str, bits))} bit{_ADVICE}")
    photometric = tags.get(262)
    colours = 3 if photometric == _RGB else 1 if photometric in (None, _WHITE_IS_ZERO, 1, 3) else 4
    kind = kinds[0] if kinds[0] in _KINDS else _UNSIGNED  # 4 is "undefined"
    white = photometric == _WHITE_IS_ZERO
    return Samples(bits[0], count, kind, white, colours, tags.get(284, 1) == _SEPARATE and count > 1)


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def _colour(image: Image.Image, samples: Samples, file: BinaryIO) -> np.ndarray:
    """Return 16-bit RGB, or grey where a pixel is grey with alpha or its channels are equal."""
    unsupported = samples.kind != _UNSIGNED or samples.bits != 16 or samples.colours == 4 or samples.separate
    if unsupported or samples.white_is_zero:
        raise refused(samples)
    if samples.colours == 1:
        grey = np.asarray(_again(image, file, {"LA;16B": "RGBA"}, samples)).astype(np.uint16)  # bytes as they are
        return grey[..., 0] << 8 | grey[..., 1]
    high = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    low = np.asarray(_again(image, file, _OTHER_BYTE, samples))
    array = (high << 8 | low)[..., :3]
    equal = np.array_equal(array[..., 0], array[..., 1]) and np.array_equal(array[..., 0], array[..., 2])
    return array[..., 0] if equal else array


def _again(image: Image.Image, file: BinaryIO, instead: dict[str, str], samples: Samples) -> Image.Image:
    """Decode a page once more with other raw modes."""
    with Image.open(io.BytesIO(_content(file)), formats=[str(image.format)]) as other:
        if image.tell():
            other.seek(image.tell())
        tiles = []
        for tile in other.tile:
            raw, *rest = [tile[3]] if isinstance(tile[3], str) else list(tile[3] or ())
            if raw not in instead:
                raise refused(samples)
            args = (instead[raw], *rest)
            tiles.append(tile._replace(args=args if rest else args[0]))
        other.tile = tiles
        other.load()
        return ImageOps.exif_transpose(other)


def _content(file: BinaryIO, size: int = -1) -> bytes:
    """Return the first bytes of an open file, all by default, and leave it where it is: Pillow reads on from there."""
    place = file.tell()
    file.seek(0)
    content = file.read(size)
    file.seek(place)
    return content
