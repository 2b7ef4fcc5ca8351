"""The drawn heatmap as secondary capture: colours, contour, colour bar, score; what any viewer can show.

The slice is drawn at a whole multiple of its own resolution, so a pixel of the source is a square of the picture;
Derivation Description (0008,2111) says where it begins and how large the square is. Several slices make one
Multi-frame True Color Secondary Capture, frames in slice order.
"""

from __future__ import annotations

import re
from pathlib import Path

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from invad_med.writers.canvas import BACKGROUND
from invad_med.writers.dicom.common import Author, Series, same, save

SERIES = Series("secondary_capture", 5, "Anomaly heatmap", sided=True)


def write_secondary_capture(author: Author, folder: Path, pictures: list[Image.Image]) -> list[Path]:
    """Write ``<folder>/secondary_capture.dcm``.

    Args:
        author: of the result.
        folder: made if need be.
        pictures: from `draw_heatmap` without reduction, one per slice.

    Raises:
        OSError: it cannot be written.
    """
    frames = _frames(pictures)
    first = author.evidence.first
    left, top, right, _ = pictures[0].info["panel"]
    factor = (right - left) // author.result.maps.shape[2]
    spacing = _spacing(author, factor)
    ds = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=first,
        pixel_array=frames[0],
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
    if len(frames) > 1:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
        ds.NumberOfFrames = len(frames)
        ds.PageNumberVector = list(range(1, len(frames) + 1))
        ds.FrameIncrementPointer = 0x00182001  # Page Number Vector
        ds.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    if author.evidence.stored:
        series = Dataset()
        series.SeriesInstanceUID = first.SeriesInstanceUID
        series.ReferencedInstanceSequence = [_plain(author, image) for image in author.evidence.images]
        ds.ReferencedSeriesSequence = [series]
    place = f"The slice begins at column {left}, row {top}; a source pixel is {factor} x {factor}."
    author.finish(ds, SERIES, place)

    def check(read: Dataset) -> None:
        same(read.pixel_array.reshape(frames.shape), frames)

    return [save(ds, author, folder / "secondary_capture.dcm", check)]


def panel(ds: Dataset) -> tuple[int, int, int]:
    """Return (left, top, factor) of the slice in a secondary capture, from its Derivation Description."""
    found = re.search(r"column (\d+), row (\d+); a source pixel is (\d+) x", str(ds.DerivationDescription))
    if not found:
        raise ValueError("Derivation Description (0008,2111) does not say where the slice is")
    return int(found[1]), int(found[2]), int(found[3])


def _frames(pictures: list[Image.Image]) -> np.ndarray:
    """Return (N, H, W, 3) uint8: pictures on one size, their top left corners together."""
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    result = np.empty((len(pictures), height, width, 3), np.uint8)
    result[:] = BACKGROUND
    for frame, picture in zip(result, pictures, strict=True):
        frame[: picture.height, : picture.width] = np.asarray(picture)
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
