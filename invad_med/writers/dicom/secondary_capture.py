"""The drawn heatmap as secondary capture: colours, contour, colour bar, score; what any viewer can show.

The slice is drawn at a whole multiple of its own resolution, so a pixel of the source is a square of the picture;
Derivation Description (0008,2111) says where it begins and how large the square is. Several slices make one
Multi-frame True Color Secondary Capture, frames in slice order.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from invad_med.readers.spool import Spool
from invad_med.writers.canvas import BACKGROUND
from invad_med.writers.dicom.common import Author, Pixels, Series, save

SERIES = Series("secondary_capture", 5, "Anomaly heatmap", sided=True)


class CaptureWriter:
    """Writes ``<folder>/secondary_capture.dcm``; pictures wait on disk until the source is complete.

    Args:
        author: of the result.
        folder: made if need be.
        pictures: where they wait.
    """

    def __init__(self, author: Author, folder: Path, pictures: Spool) -> None:
        self._author, self._folder, self._pictures = author, folder, pictures
        self._place = 0, 0, 0  # left, top, factor

    def add(self, picture: Image.Image) -> None:
        """Take the picture of one slice, from `draw_heatmap` without reduction.

        Raises:
            OSError: it cannot be kept.
        """
        if not len(self._pictures):
            left, top, right, _ = picture.info["panel"]
            self._place = left, top, (right - left) // self._author.account.shape[1]
        self._pictures.append(np.asarray(picture))

    def finish(self) -> list[Path]:
        """Write the object.

        Raises:
            OSError: it cannot be written.
        """
        shapes = self._pictures.shapes()
        size = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes), 3
        return [_write(self._author, self._folder, self._pictures, size, self._place)]


def _write(
    author: Author, folder: Path, pictures: Spool, size: tuple[int, int, int], place: tuple[int, int, int]
) -> Path:
    first, count = author.evidence.first, len(pictures)
    left, top, factor = place
    spacing = _spacing(author, factor)
    ds = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=first,
        pixel_array=_frame(pictures[0], size),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # the constructor wants one; what is known follows
        pixel_spacing=spacing,  # type: ignore[arg-type]  # says whole numbers, takes and needs fractions
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **author.keywords(SERIES),
    )
    ds.PatientOrientation = _orientation(first)
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "NO" if author.evidence.first.get("PatientIdentityRemoved") == "YES" else "YES"
    if first.get("BodyPartExamined"):
        ds.BodyPartExamined = first.BodyPartExamined
    del ds.PixelData
    if count > 1:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
        ds.NumberOfFrames = count
        ds.PageNumberVector = list(range(1, count + 1))
        ds.FrameIncrementPointer = 0x00182001  # Page Number Vector
    if author.evidence.stored:
        series = Dataset()
        series.SeriesInstanceUID = first.SeriesInstanceUID
        series.ReferencedInstanceSequence = [_plain(author, image) for image in author.evidence.images]
        ds.ReferencedSeriesSequence = [series]
    where = f"The slice begins at column {left}, row {top}; a source pixel is {factor} x {factor}."
    author.finish(ds, SERIES, where)

    pixels = Pixels(
        "PixelData", "OB", count * math.prod(size), lambda: (_frame(picture, size).tobytes() for picture in pictures)
    )
    return save(ds, author, folder / "secondary_capture.dcm", pixels=pixels)


def panel(ds: Dataset) -> tuple[int, int, int]:
    """Return (left, top, factor) of the slice in a secondary capture, from its Derivation Description."""
    found = re.search(r"column (\d+), row (\d+); a source pixel is (\d+) x", str(ds.DerivationDescription))
    if not found:
        raise ValueError("Derivation Description (0008,2111) does not say where the slice is")
    return int(found[1]), int(found[2]), int(found[3])


def _frame(picture: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Return a picture, (H, W, 3) uint8, in the top left corner of one of another size."""
    result = np.empty(size, np.uint8)
    result[:] = BACKGROUND
    result[: picture.shape[0], : picture.shape[1]] = picture
    return result


def _spacing(author: Author, factor: int) -> tuple[float, float] | None:
    if author.evidence.planes is None:
        return None
    rows, columns = author.evidence.planes[0].spacing
    return float(f"{rows / factor:.8g}"), float(f"{columns / factor:.8g}")


def _orientation(ds: Dataset) -> list[str]:
    """Return Patient Orientation (0020,0020), type 2C: empty where the source does not say it."""
    stated = [str(v) for v in ds.get("PatientOrientation") or []]
    return stated if len(stated) == 2 and all(re.fullmatch("[AFHLPR]{1,3}", v) for v in stated) else []


def _plain(author: Author, image: Dataset) -> Dataset:
    item = author.reference(image)
    del item.PurposeOfReferenceCodeSequence
    return item
