"""DICOM pixels to slices: what is applied, in this order.

| step | attribute |
|---|---|
| decode with the installed codecs; YBR to RGB | (7FE0,0010), (0002,0010), (0028,0004) |
| PALETTE COLOR to RGB; colour to 8 bit | (0028,1101..1203), (0028,0101) |
| modality LUT or rescale, per frame in enhanced objects | (0028,3000), (0028,1052/1053), (0028,9145) |
| a slope of 0, or a slope or intercept that is not finite, rescales nothing | |
| first VOI LUT or window: CR, DX and MG only | (0028,3010), (0028,1050/1051) |
| padding becomes the smallest of the other values | (0028,0120), (0028,0121) |
| MONOCHROME1 is inverted (low + high of the source - value), so that bright is dense; HU never are | (0028,0004) |

Units: CT with a rescale to Hounsfield units is ``HU``; 8-bit images of other kinds than CT, MR, PET and NM that are
not rescaled are ``8bit``, as are colours; all else is ``stored``. A Siemens mosaic is read as the 2-D image it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_windowing, get_decoder, pixel_array
from pydicom.uid import UID, RLELossless

from invad_med.data.slices import Origin, ReadError, Slice, Source, Unit
from invad_med.files import digest_of
from invad_med.readers.decoding import check_size, extremes, grey_or_colour, is_length, reading, value_range
from invad_med.readers.dicom.apart import apart
from invad_med.readers.dicom.frames import frames_of, functional_group
from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.luts import look_up, rescale_of
from invad_med.readers.dicom.planes import Grid, grid_of
from invad_med.readers.dicom.stored import Pixels, StoredImage, header_of, pixels_of
from invad_med.readers.dicom.values import code, name_of
from invad_med.readers.spool import Entry, Spool, pieces_of

_VOI_MODALITIES = {"CR", "DX", "MG"}  # their raw detector values mean little; elsewhere the values themselves count
_MEASURED = {"CT", "MR", "PT", "NM"}  # 8-bit images of these are not in a display range
_PHOTOMETRIC = "PhotometricInterpretation"
_COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}


@dataclass(frozen=True)
class _Frame:
    pixels: np.ndarray  # (H, W) float32 or (H, W, 3) uint8
    unit: Unit
    spacing: tuple[float, float] | None
    inverted: bool
    padding: np.ndarray | None  # (H, W) bool


@dataclass(frozen=True)
class _Kept:
    """A frame whose pixels, and padding where it is to be inverted, lie at places of a spool."""

    pixels: int
    unit: Unit
    spacing: tuple[float, float] | None
    inverted: bool
    padding: int | None
    origin: StoredImage
    digest: str


@dataclass(frozen=True)
class _File:
    header: Dataset
    raw: Sequence[np.ndarray]  # of every stored frame
    pixels: Pixels | Callable[[], Pixels] | None  # as `StoredImage` keeps them
    digest: str


class LastFile:
    """Keeps the decoded file of the source read last, where it holds further sources: several acquisitions."""

    def __init__(self) -> None:
        self._kept: tuple[Path, _File] | None = None

    def open(self, path: Path, source: Source, spool: Spool) -> _File:
        """Return a file decoded, as it is kept if it was the last one.

        Args:
            path: the file.
            source: what is read of it.
            spool: of the source, for what it alone needs.

        Raises:
            ReadError: see `read`.
        """
        kept = self._kept
        if source.frames is None:
            self._kept = None
            return _open(path, source, spool)
        if kept is None or kept[0] != path:
            kept = self._kept = path, _open(path, source, Spool())
        return kept[1]


def read(source: Source, last: LastFile | None = None) -> Sequence[Slice | ReadError]:
    """Decode all slices of a file or series; a file of a series that cannot be read leaves its reason in its place.

    Args:
        source: as found by `invad_med.readers.sources.scan`.
        last: keeps a file for the sources in it that follow.

    Raises:
        ReadError: nothing of the source can be read: truncated pixel data, a codec that is missing or cannot decode
            it rightly (JPEG Extended with 12 bits), no Transfer Syntax UID, an absurd size.
    """
    frames: list[_Kept | ReadError] = []
    spool, last = Spool(), last or LastFile()
    for path in source.paths:
        try:
            frames += _decode(path, source, last, spool)
        except ReadError as error:
            frames.append(error.plain())
    good = [f for f in frames if isinstance(f, _Kept)]
    if not good:
        raise next(f for f in frames if isinstance(f, ReadError))

    grey = [f.pixels for f in good if f.unit != "8bit" and f.inverted]
    mirror = sum(extremes(spool.at(grey))) if grey else 0.0
    for frame in good:
        if frame.inverted:
            pixels = np.float32(255.0 if frame.unit == "8bit" else mirror) - spool[frame.pixels]
            padding = None if frame.padding is None else spool[frame.padding]
            spool.replace(frame.pixels, _fill(pixels, padding))

    values = [f.pixels for f in good if f.unit != "8bit"]
    shared = value_range(spool.at(values)) if values else (0.0, 255.0)
    placed, grid = _places([f.origin for f in frames], [isinstance(f, _Kept) for f in frames])
    entries: list[Entry] = []
    for i, f in enumerate(frames):
        origin = replace(f.origin, grid=grid, placed=placed) if isinstance(f.origin, StoredImage) else None
        if isinstance(f, ReadError):
            f.origin = origin
            entries.append(f)
            continue
        scale = (0.0, 255.0) if f.unit == "8bit" else shared
        make = partial(
            Slice, source=source, index=i, unit=f.unit, value_range=scale, spacing=f.spacing, origin=origin,
            digest=f.digest,
        )  # fmt: skip
        entries.append((make, f.pixels))
    return pieces_of(entries, spool)


def _decode(path: Path, source: Source, last: LastFile, spool: Spool) -> list[_Kept]:
    """Return the frames of a file in the order of the slices; a ReadError brings the header along if there is one."""
    file = last.open(path, source, spool)
    try:
        with reading("DICOM image"):
            order = frames_of(file.header, source, len(file.raw))
            result = []
            for number, frame in zip(order, _frames(file.header, file.raw, order), strict=True):
                padding = spool.append(frame.padding) if frame.inverted and frame.padding is not None else None
                origin = StoredImage(file.header, number, file.pixels)
                kept = spool.append(frame.pixels), frame.unit, frame.spacing, frame.inverted, padding
                result.append(_Kept(*kept, origin, file.digest))
            return result
    except ReadError as error:
        error.origin = StoredImage(file.header)
        raise


def _open(path: Path, source: Source, spool: Spool) -> _File:
    """Return a file with all its frames decoded; a ReadError brings the header along if there is one."""
    with reading("DICOM file"), path.open("rb") as opened:
        ds = pydicom.dcmread(opened, force=True)
        digest = digest_of(opened)
    try:
        raw, pixels = _decoded(ds, source, spool)
    except ReadError as error:
        error.origin = StoredImage(header_of(ds))
        raise
    return _File(header_of(ds), raw, pixels, digest)


def _decoded(
    ds: Dataset, source: Source, spool: Spool
) -> tuple[Sequence[np.ndarray], Pixels | Callable[[], Pixels] | None]:
    """Return the stored frames of a dataset, and its pixels as `StoredImage` keeps them."""
    with reading("DICOM file"):
        if "Rows" not in ds or "Columns" not in ds:
            raise ReadError("file is cut off or damaged")  # pydicom drops all elements if the pixel data has no end
        count = number_of_frames(ds)
        check_size(int(ds.Rows), int(ds.Columns), count * len(source.paths), int(ds.get("SamplesPerPixel") or 1))
        if not any(k in ds for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise ReadError("pixel data (7FE0,0010) is missing or cut off")
        syntax: UID | None = ds.file_meta.get("TransferSyntaxUID")
        if not syntax:
            raise ReadError("no Transfer Syntax UID (0002,0010), so the pixel data cannot be decoded")
        _require_low_bits(ds, syntax)
    array = _pixel_array(ds, syntax)
    raw: Sequence[np.ndarray] = [array] if count == 1 else list(array)
    if len(raw) != count:
        raise ReadError(f"pixel data holds {len(raw)} frames, the header says {count}")
    with reading("DICOM image"):
        pixels = pixels_of(ds, syntax, array)
        if count > 1:
            spooled = Spool()
            for frame in raw:
                spooled.append(frame)
            raw = spooled
        return raw, None if pixels is None else _keep(pixels, spool)


def _keep(pixels: Pixels, spool: Spool) -> Callable[[], Pixels]:
    """Put the pixels of a file into a spool and return what gives them again."""
    if isinstance(pixels, np.ndarray):
        return partial(spool.__getitem__, spool.append(pixels))
    place = spool.append(np.frombuffer(pixels, np.uint8))
    return lambda: spool[place].tobytes()


def _places(origins: Sequence[Origin | None], read: Sequence[bool]) -> tuple[bool, Grid | None]:
    """Return whether all slices that were read state where they lie, and the grid that all of them make."""
    planes = [origin.plane if isinstance(origin, StoredImage) else None for origin in origins]
    placed = all(plane is not None for plane, good in zip(planes, read, strict=True) if good)
    return placed, grid_of(planes) if placed else None


def _require_low_bits(ds: Dataset, syntax: UID) -> None:
    """Raise ReadError if values do not end at the lowest bit of their word, as old films do: no decoder moves them.

    Codecs other than RLE store values, not words.
    """
    stored, high = ds.get("BitsStored"), ds.get("HighBit")
    words = not syntax.is_encapsulated or syntax == RLELossless
    if words and "PixelData" in ds and isinstance(stored, int) and isinstance(high, int) and high != stored - 1:
        raise ReadError(
            f"High Bit (0028,0102) is {high} with {stored} bits stored, so that values do not end at the lowest bit; "
            f"store them with High Bit {stored - 1}"
        )


def _pixel_array(ds: Dataset, syntax: UID) -> np.ndarray:
    advice = "; decompress it first, for example with dcmdjpeg or gdcmconv"
    name = name_of(syntax, "transfer syntax")
    with reading(f"pixel data ({name})"):
        try:
            if not get_decoder(syntax).is_available:
                raise ReadError(f"no codec is installed for {name}{advice}")
            # Not iter_pixels: its arrays can be read-only, on which pydicom's own sign correction fails.
            return apart(lambda: pixel_array(ds, raw=False)) if syntax.is_compressed else pixel_array(ds, raw=False)
        except NotImplementedError:
            raise ReadError(f"no codec is known for {name}{advice}") from None
        except RuntimeError as error:  # pydicom's summary of what each codec said
            if "does not support" in str(error):
                bits = int(ds.BitsStored)
                raise ReadError(f"no codec decodes {name} with {bits} bits rightly{advice}") from None
            raise ReadError(f"pixel data ({name}) is damaged or cut off") from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of codecs in Rust: no Exception, and of no importable type
                raise
            raise ReadError(f"pixel data ({name}) is damaged or cut off") from None


def _frames(ds: Dataset, raw: Sequence[np.ndarray], order: list[int]) -> Iterator[_Frame]:
    photometric = str(ds.get(_PHOTOMETRIC) or "MONOCHROME2").strip().upper()
    for frame in order:
        spacing = _spacing(ds, frame)
        if photometric in ("MONOCHROME1", "MONOCHROME2") and raw[frame].ndim == 2:
            pixels, unit, padding = _grey(ds, raw[frame], frame)
            yield _Frame(pixels, unit, spacing, photometric == "MONOCHROME1" and unit != "HU", padding)
        elif photometric == "PALETTE COLOR":
            yield _Frame(grey_or_colour(_palette(ds, raw[frame])), "8bit", spacing, False, None)
        elif photometric in _COLOURS and raw[frame].shape[2:] == (3,):
            shift = max(int(ds.BitsStored) - 8, 0)
            yield _Frame(grey_or_colour((raw[frame] >> shift).astype(np.uint8)), "8bit", spacing, False, None)
        else:
            raise ReadError(f"Photometric Interpretation (0028,0004) {code(ds, _PHOTOMETRIC)!r} is not supported")


def _grey(ds: Dataset, stored: np.ndarray, frame: int) -> tuple[np.ndarray, Unit, np.ndarray | None]:
    padding = _padding(ds, stored)
    modality = str(ds.get("Modality") or "").strip().upper()
    item = functional_group(ds, frame, "PixelValueTransformationSequence") or ds
    lut = item.get("ModalityLUTSequence")
    rescale = rescale_of(item)
    little_endian = bool(UID(ds.file_meta.TransferSyntaxUID).is_little_endian)
    if lut:
        values: np.ndarray = look_up(stored, lut[0], little_endian)
    elif rescale:
        values = stored.astype(np.float64) * rescale[0] + rescale[1]
    else:
        values = stored

    unit: Unit = "stored"
    changed = bool(lut) or rescale not in (None, (1.0, 0.0))
    kind = str(item.get("RescaleType") or "HU").strip().upper()
    if modality == "CT" and rescale and not lut and kind in ("HU", "US"):
        unit = "HU"  # Rescale Type may be left out if it is HU; "US" is "unspecified"
    elif int(ds.BitsStored) == 8 and not ds.get("PixelRepresentation") and not changed and modality not in _MEASURED:
        unit = "8bit"
    if modality in _VOI_MODALITIES:
        if ds.get("VOILUTSequence"):
            values, unit = look_up(values, ds.VOILUTSequence[0], little_endian), "stored"
        elif _has_window(ds):
            values = apply_windowing(values, ds)

    pixels = values.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ReadError("pixel values are not finite")
    return _fill(pixels, padding), unit, padding


def _padding(ds: Dataset, stored: np.ndarray) -> np.ndarray | None:
    value, limit = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    low, high = sorted((value, limit)) if isinstance(limit, int) else (value, value)
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() and not mask.all() else None


def _fill(pixels: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    if padding is not None:
        pixels[padding] = pixels[~padding].min()
    return pixels


def _has_window(ds: Dataset) -> bool:
    """Return whether the first window can be applied; some radiographs carry an empty or zero one."""
    try:
        width = np.atleast_1d(np.asarray(ds.WindowWidth, dtype=np.float64))[0]
        centre = np.atleast_1d(np.asarray(ds.WindowCenter, dtype=np.float64))[0]
    except (AttributeError, TypeError, ValueError, IndexError):
        return False
    least = 1.0 if str(ds.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR" else 1e-6
    return bool(np.isfinite(centre) and width >= least)


def _palette(ds: Dataset, index: np.ndarray) -> np.ndarray:
    colours = apply_color_lut(index, ds)[..., :3]
    if colours.dtype != np.uint8 and colours.max() > 255:  # some writers put 8-bit entries into a 16-bit table
        colours = colours >> 8
    return colours.astype(np.uint8)


def _spacing(ds: Dataset, frame: int) -> tuple[float, float] | None:
    """Return (row, column) spacing in mm: Pixel Spacing, else that at the detector, which magnification enlarges.

    Pixel Aspect Ratio, vertical to horizontal size, is taken where neither is stated: it says what shape pixels have.
    """
    places: list[tuple[Any, str]] = [(functional_group(ds, frame, "PixelMeasuresSequence"), "PixelSpacing")]
    kinds = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
    places += [(ds, keyword) for keyword in kinds]
    for place, keyword in places:
        try:
            row, column = (float(v) for v in place.get(keyword))
        except (AttributeError, TypeError, ValueError):
            continue
        if is_length(row) and is_length(column):
            return row, column
    return None
