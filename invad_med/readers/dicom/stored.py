"""What a DICOM file says besides the values of its pixels, kept while its slices are worked on.

Maps, evidence and copies are made of it, so that no file is opened a second time to be written about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from invad_med.data.slices import Origin, ReadError, Slice
from invad_med.readers.dicom.planes import Grid, Plane, plane_of

_PIXEL_GROUP = 0x7FE0
Pixels = bytes | np.ndarray


@dataclass(frozen=True, eq=False)
class StoredImage(Origin):
    """One stored frame.

    Args:
        header: everything but group 7FE0 and what lies behind it, file meta information with the transfer syntax
            included, as read: `Dataset.decode` was not called. Frames of a file share it: copy it to change it.
        frame: number of the stored frame, 0-based.
        kept: `pixels`, or what gives them.
        grid: that all slices of its source make, so far as their headers say; None where they make none.
        placed: all slices of its source that could be read state where they lie.
    """

    header: Dataset = field(repr=False)  # names the patient
    frame: int = 0
    kept: Pixels | Callable[[], Pixels] | None = field(default=None, repr=False)
    grid: Grid | None = field(default=None, repr=False)
    placed: bool = False

    @property
    def pixels(self) -> Pixels | None:
        """Those of all frames of the file, shared by them: read anew at each access where the source is a large one.

        The value of Pixel Data (7FE0,0010), in little-endian order, where it is stored plainly; the decoded array
        ([frames,] rows, columns[, samples]) where it was compressed; None where it could not be decoded, or the pixels
        are floating-point numbers.
        """
        return self.kept() if callable(self.kept) else self.kept

    @cached_property
    def plane(self) -> Plane | None:
        """The frame's place in the patient, or None where place, direction or spacing is missing or absurd."""
        try:
            return plane_of(self.header, self.frame)
        except ReadError:  # the header of a file that could not be read may not even count its frames
            return None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"kept": self.pixels}  # another process cannot read them


def header_of(ds: Dataset) -> Dataset:
    """Return a dataset without its pixels and what lies behind them, changed in place."""
    for tag in [tag for tag in list(ds.keys()) if tag.group >= _PIXEL_GROUP]:
        del ds[tag]
    return ds


def has_burned_in_text(ds: Dataset) -> bool:
    """Return whether a dataset declares that text which may name the patient is part of its pixels: (0028,0301)."""
    return str(ds.get("BurnedInAnnotation") or "").strip().upper() == "YES"


def pixels_of(ds: Dataset, syntax: UID, decoded: np.ndarray) -> bytes | np.ndarray | None:
    """Return the pixels of a dataset as `StoredImage` keeps them.

    Args:
        ds: with its pixels.
        syntax: its transfer syntax.
        decoded: what its pixels were decoded to.
    """
    if "PixelData" not in ds:
        return None
    if syntax.is_encapsulated:
        return decoded
    value: bytes = ds.PixelData
    if syntax.is_little_endian or ds["PixelData"].VR != "OW":
        return value
    return in_little_endian(value, 4 if ds.BitsAllocated == 32 else 2)


def in_little_endian(words: bytes, width: int) -> bytes:
    """Return big-endian words of ``width`` bytes in little-endian order; what is left over at the end goes."""
    whole = words[: len(words) // width * width]
    return np.frombuffer(whole, f">u{width}").astype(f"<u{width}").tobytes()


def stored_image(piece: Slice) -> StoredImage:
    """Return the stored frame of a slice.

    Raises:
        TypeError: the slice is not of a DICOM file.
    """
    if not isinstance(piece.origin, StoredImage):
        raise TypeError(f"a slice of a {piece.source.kind} source has no stored DICOM image")
    return piece.origin


def planes_of(pieces: Sequence[Slice | ReadError]) -> list[Plane | None] | None:
    """Return the plane of every slice, or None if one that was read has none.

    Args:
        pieces: all slices of a DICOM source in their order.

    Returns:
        Planes in that order; None in the place of a slice that was not read and whose header does not give one.
    """
    planes, known = [], False
    for piece in pieces:  # one at a time: of a large source each is read anew
        planes.append(piece.origin.plane if isinstance(piece.origin, StoredImage) else None)
        if isinstance(piece, Slice):
            known = True
            if planes[-1] is None:
                return None
    return planes if known else None
