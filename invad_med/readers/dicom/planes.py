"""Where each slice of a DICOM source lies in the patient (PS3.3 C.7.6.2 and C.7.6.16.2.3 f), from headers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from invad_med.data.slices import Source
from invad_med.readers.decoding import reading
from invad_med.readers.dicom.frames import frames_of
from invad_med.readers.dicom.headers import number_of_frames

_TAGS = [
    "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
    "DimensionIndexSequence",
]  # fmt: skip
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """Place of a slice in the patient (LPS, mm): PS3.3 C.7.6.2.1.1."""

    position: np.ndarray  # (3,), centre of the first pixel
    along_row: np.ndarray  # (3,), unit vector in which the column index grows
    along_column: np.ndarray  # (3,), unit vector in which the row index grows
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float  # of the slice, 1 mm where not stated

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)


def planes_of(source: Source) -> list[Plane] | None:
    """Return the plane of every slice, in the order of the slices, or None if one has none."""
    planes: list[Plane | None] = []
    for path in source.paths:
        with reading("DICOM header"):
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
            planes += [plane_of(ds, frame) for frame in frames_of(ds, source, number_of_frames(ds))]
    found = [p for p in planes if p is not None]
    return found if len(found) == len(planes) == source.n_slices else None


def plane_of(ds: Dataset, frame: int) -> Plane | None:
    """Return the plane of a stored frame (0-based), or None where place, direction or spacing is missing or absurd."""
    groups = [*(ds.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]]
    groups += (ds.get("SharedFunctionalGroupsSequence") or [])[:1]
    places = [g[n][0] for n in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
              for g in groups if g.get(n)]  # fmt: skip
    if number_of_frames(ds) == 1:
        places.append(ds)
    position, orientation, spacing = (
        _numbers(places, keyword, count)
        for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    if position is None or orientation is None or spacing is None or spacing.min() <= 0:
        return None
    row, column = orientation[:3], orientation[3:]
    if abs(row @ row - 1) > 0.01 or abs(column @ column - 1) > 0.01 or abs(row @ column) > 0.01:
        return None
    thickness = _numbers(places, "SpacingBetweenSlices", 1)
    if thickness is None or thickness[0] <= 0:
        thickness = _numbers(places, "SliceThickness", 1)
    known = float(thickness[0]) if thickness is not None and thickness[0] > 0 else 1.0
    return Plane(position, row, column, (float(spacing[0]), float(spacing[1])), known)


def _numbers(places: list[Dataset], keyword: str, count: int) -> np.ndarray | None:
    """Return the first value of an element that is ``count`` finite numbers."""
    for place in places:
        try:
            numbers = np.atleast_1d(np.asarray(place.get(keyword), dtype=np.float64))
        except (TypeError, ValueError):
            continue
        if numbers.shape == (count,) and np.isfinite(numbers).all():
            return numbers
    return None


def even_step(planes: list[Plane]) -> float | None:
    """Return the distance along the normal from one slice to the next, or None if they make no regular grid.

    Positions may be off by 0.01 mm or a thousandth of the distance, whichever is more.
    """
    first = planes[0]
    if len(planes) == 1:
        return first.thickness
    step = float((planes[-1].position - first.position) @ first.normal) / (len(planes) - 1)
    tolerance = max(0.01, 1e-3 * abs(step))
    for k, plane in enumerate(planes):
        alike = (
            np.allclose(plane.along_row, first.along_row, atol=1e-3)
            and np.allclose(plane.along_column, first.along_column, atol=1e-3)
            and np.allclose(plane.spacing, first.spacing, rtol=1e-3)
        )
        off = np.linalg.norm(plane.position - (first.position + k * step * first.normal))
        if not alike or off > tolerance:
            return None
    return step if abs(step) > tolerance else None


def affine_of(plane: Plane, step: float) -> np.ndarray:
    """Return the (4, 4) affine from voxel (column, row, slice) to RAS mm."""
    lps = np.eye(4)
    lps[:3, 0] = plane.along_row * plane.spacing[1]
    lps[:3, 1] = plane.along_column * plane.spacing[0]
    lps[:3, 2] = plane.normal * step
    lps[:3, 3] = plane.position
    return _LPS_TO_RAS @ lps
