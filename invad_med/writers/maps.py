"""Anomaly maps as files in the geometry of the input.

| source | file |
|---|---|
| NIfTI | NIfTI on the source's own voxel grid |
| DICOM with Image Orientation, Image Position (Patient) and Pixel Spacing of every slice | NIfTI placed by them |
| PNG, JPEG, TIFF; DICOM without that geometry | float32 TIFF of the same height and width, a page per slice |
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset

from invad_med.data.decoding import reading
from invad_med.data.slices import Source
from invad_med.dicom.reader import frame_order
from invad_med.dicom.series import number_of_frames
from invad_med.writers.atomic import write_atomically
from invad_med.writers.naming import slice_path
from invad_med.writers.nifti import write_nifti_map

_TAGS = [
    "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
]  # fmt: skip
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_map(source: Source, maps: np.ndarray, output_dir: str | Path) -> Path | list[Path]:
    """Write one map per slice in the geometry of the input and return the path, or paths.

    NIfTI goes to ``<output_dir>/maps/<source.name>.nii.gz``, TIFF to ``.tif``. Slices of a DICOM source that are not
    evenly spaced along their common normal (a gap, a tilted gantry, a localiser), which no NIfTI volume can hold, go
    to one file each, ``<source.name>_sNNN.nii.gz``. Slices that were not scored, NaN in ``maps``, are written as 0:
    many viewers cannot show NaN. Every file appears whole or not at all.

    Args:
        source: what the maps belong to.
        maps: (N, H, W) float32, the source's slices in the order and orientation they are read in; NaN where a slice
            was not scored.
        output_dir: made if need be.

    Raises:
        ValueError: another number of maps than slices, or, for NIfTI, another shape.
        ReadError: the source's header cannot be read any more.
        OSError: the file cannot be written.
    """
    if maps.ndim != 3 or len(maps) != source.n_slices:
        raise ValueError(
            f"maps of shape {maps.shape}, but the source has {source.n_slices} slice(s): (N, H, W) expected"
        )
    folder = Path(output_dir) / "maps"
    if source.kind == "nifti":
        return write_nifti_map(source, maps, folder / f"{source.name}.nii.gz")
    finite = np.nan_to_num(np.asarray(maps, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    planes = _planes(source) if source.kind == "dicom" else None
    if planes is None:
        return _write_tiff(finite, folder / f"{source.name}.tif")
    step = _even_step(planes)
    if step is not None:
        return _write_nifti(finite, _affine(planes[0], step), folder / f"{source.name}.nii.gz")
    paths = [slice_path(folder, source, i, ".nii.gz") for i in range(len(planes))]
    return [
        _write_nifti(finite[i : i + 1], _affine(plane, plane.thickness), path)
        for i, (plane, path) in enumerate(zip(planes, paths, strict=True))
    ]


@dataclass(frozen=True)
class _Plane:
    """Place of a slice in the patient (LPS, mm): PS3.3 C.7.6.2.1.1."""

    position: np.ndarray  # (3,), centre of the first pixel
    along_row: np.ndarray  # (3,), unit vector in which the column index grows
    along_column: np.ndarray  # (3,), unit vector in which the row index grows
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float  # of the slice, 1 mm where not stated

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)


def _planes(source: Source) -> list[_Plane] | None:
    """Return the plane of every slice, in the order of the slices, or None if one has none."""
    planes: list[_Plane | None] = []
    for path in source.paths:
        with reading("DICOM header"):
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
            planes += [_plane(ds, frame) for frame in frame_order(ds)]
    found = [p for p in planes if p is not None]
    return found if len(found) == len(planes) == source.n_slices else None


def _plane(ds: Dataset, frame: int) -> _Plane | None:
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
    return _Plane(position, row, column, (float(spacing[0]), float(spacing[1])), known)


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


def _even_step(planes: list[_Plane]) -> float | None:
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


def _affine(plane: _Plane, step: float) -> np.ndarray:
    """Return the (4, 4) affine from voxel (column, row, slice) to RAS mm."""
    lps = np.eye(4)
    lps[:3, 0] = plane.along_row * plane.spacing[1]
    lps[:3, 1] = plane.along_column * plane.spacing[0]
    lps[:3, 2] = plane.normal * step
    lps[:3, 3] = plane.position
    return _LPS_TO_RAS @ lps


def _write_nifti(maps: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    image = nib.Nifti1Image(maps.transpose(2, 1, 0), affine)
    image.set_sform(affine, code=1)  # 1: scanner coordinates
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    write_atomically(path, gzip.compress(image.to_bytes(), mtime=0))
    return path


def _write_tiff(maps: np.ndarray, path: Path) -> Path:
    first, *rest = (Image.fromarray(np.ascontiguousarray(m)) for m in maps)
    content = io.BytesIO()
    first.save(content, format="TIFF", save_all=True, append_images=rest, compression="tiff_adobe_deflate")
    write_atomically(path, content.getvalue())
    return path
