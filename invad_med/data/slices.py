"""What a reader hands on: a `Source` (a file or series, nothing decoded) and its `Slice`s (pixels and provenance)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Kind = Literal["raster", "nifti", "dicom"]
Unit = Literal["8bit", "HU", "stored"]
RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
PERCENTILES = (0.5, 99.5)  # of a source's values: `Slice.value_range`


class Origin:
    """What the file of a slice says besides its pixels, so that writers need not open it again.

    Every format that has something to say has a kind of its own: `invad_med.readers.dicom.stored.StoredImage`,
    `invad_med.readers.nifti.NiftiGrid`.
    """


class ReadError(Exception):
    """A file or slice that cannot be read, with a reason fit for the user's table: no path, no patient identity.

    Attributes:
        origin: of a slice whose header could be read but not its pixels; else None.
        digest: as `Slice.digest`, of a slice that could be read but shows nothing; else empty.
    """

    origin: Origin | None = None
    digest: str = ""

    def plain(self) -> ReadError:
        """Return the same error without traceback and cause, which would hold arrays as long as it lives."""
        error = ReadError(str(self))
        error.origin, error.digest = self.origin, self.digest
        return error


@dataclass(frozen=True)
class Source:
    """One image file, or the files of one DICOM series in order of position; nothing is decoded yet.

    Args:
        kind: which reader decodes it.
        paths: the file, or the files of a series, sorted by position along the slice normal.
        name: unique within a run, relative, without extension, free of patient identity; names the outputs.
        n_slices: number of 2-D slices it holds.
        modality: DICOM Modality (0008,0060), or None where the format has no such word.
        body_part: DICOM Body Part Examined (0018,0015), upper case, or None.
        stated_modality: name of the modality that a folder on the way states (``.../chest/x.png``), or None.
        frames: of one multi-frame DICOM file, the stored frames (0-based) that are the slices, in order; None for all.
        notes: sentences on how it was read, for the reason column of the user's table.
        unfit: why it must not be scored (a localiser, a mosaic), or None.
        ascends: whether its slices go from feet to head, as far as the file says where they lie.
    """

    kind: Kind
    paths: tuple[Path, ...]
    name: str
    n_slices: int
    modality: str | None = None
    body_part: str | None = None
    stated_modality: str | None = None
    frames: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    unfit: str | None = None
    ascends: bool = True


@dataclass(frozen=True)
class Slice:
    """One decoded 2-D image in display orientation.

    Args:
        pixels: (H, W) float32, or (H, W, 3) uint8 for colour.
        source: where it came from.
        index: position in the source, 0-based.
        unit: ``8bit`` (0..255, already a display range), ``HU`` (CT after rescale), ``stored`` (anything else:
            rescaled MR or X-ray values, 16-bit rasters).
        value_range: 0.5 and 99.5 percentile of the whole source's values, so that slices of one volume share a scale.
        spacing: (row, column) distance of pixel centres in mm, or None where unknown; where a file states no more than
            the shape of its pixels, in that proportion.
        origin: what its file says besides pixels, patient identity included, so that no repr shows it; None of PNG,
            JPEG and TIFF, which say nothing that is written back.
        digest: of the content of its file, `invad_med.files.digest_of`; empty of what came from no file.
    """

    pixels: np.ndarray
    source: Source
    index: int
    unit: Unit
    value_range: tuple[float, float]
    spacing: tuple[float, float] | None = None
    origin: Origin | None = field(default=None, repr=False, compare=False)
    digest: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Problem:
    """A file that was not read, and why."""

    path: Path
    reason: str
