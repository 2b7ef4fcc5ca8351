"""Where a frame lies in the patient (PS3.3 C.7.6.2 and C.7.6.16.2.3 f), and whether slices make a regular grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from invad_med.readers.decoding import is_length
from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.values import ABSURD

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
    if position is None or orientation is None or spacing is None or not all(map(is_length, spacing)):
        return None
    row, column = orientation[:3], orientation[3:]
    if abs(row @ row - 1) > 0.01 or abs(column @ column - 1) > 0.01 or abs(row @ column) > 0.01:
        return None
    thickness = _numbers(places, "SpacingBetweenSlices", 1)
    if thickness is None or not is_length(thickness[0]):
        thickness = _numbers(places, "SliceThickness", 1)
    known = float(thickness[0]) if thickness is not None and is_length(thickness[0]) else 1.0
    return Plane(position, row, column, (float(spacing[0]), float(spacing[1])), known)


def _numbers(places: list[Dataset], keyword: str, count: int) -> np.ndarray | None:
    """Return the first value of an element that is ``count`` finite numbers, none of them absurdly large."""
    for place in places:
        try:
            numbers = np.atleast_1d(np.asarray(place.get(keyword), dtype=np.float64))
        except (TypeError, ValueError):
            continue
        if numbers.shape == (count,) and (np.abs(numbers) < ABSURD).all():  # false of what is no number, too
            return numbers
    return None


@dataclass(frozen=True)
class Grid:
    """A regular stack of slices: the place of its first slice and the distance along the normal to the next, in mm."""

    first: Plane
    step: float


def grid_of(planes: Sequence[Plane | None]) -> Grid | None:
    """Return the grid that slices make, or None if they make no regular one.

    Positions may be off by 0.01 mm or a thousandth of the distance, whichever is more.

    Args:
        planes: of the slices in their order; None where one is not known, which is taken to lie where it should.
    """
    known = [(k, plane) for k, plane in enumerate(planes) if plane is not None]
    if not known:
        return None
    (start, first), (end, last) = known[0], known[-1]
    if len(planes) == 1:
        return Grid(first, first.thickness)
    if start == end:
        return None
    step = float((last.position - first.position) @ first.normal) / (end - start)
    tolerance = max(0.01, 1e-3 * abs(step))
    for k, plane in known:
        alike = (
            np.allclose(plane.along_row, first.along_row, atol=1e-3)
            and np.allclose(plane.along_column, first.along_column, atol=1e-3)
            and np.allclose(plane.spacing, first.spacing, rtol=1e-3)
        )
        off = np.linalg.norm(plane.position - (first.position + (k - start) * step * first.normal))
        if not alike or off > tolerance:
            return None
    if abs(step) <= tolerance:
        return None
    return Grid(replace(first, position=first.position - start * step * first.normal) if start else first, step)


def affine_of(plane: Plane, step: float) -> np.ndarray:
    """Return the (4, 4) affine from voxel (column, row, slice) to RAS mm."""
    lps = np.eye(4)
    lps[:3, 0] = plane.along_row * plane.spacing[1]
    lps[:3, 1] = plane.along_column * plane.spacing[0]
    lps[:3, 2] = plane.normal * step
    lps[:3, 3] = plane.position
    return _LPS_TO_RAS @ lps
