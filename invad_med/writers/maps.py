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
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from invad_med.data.own_results import MARK
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.files import write_atomically
from invad_med.readers.dicom.planes import affine_of, grid_of
from invad_med.readers.dicom.stored import planes_of
from invad_med.readers.nifti import NiftiGrid
from invad_med.writers.naming import fitted, slice_path
from invad_med.writers.nifti import write_nifti_map


def write_map(
    source: Source, pieces: Sequence[Slice | ReadError], maps: np.ndarray, output_dir: str | Path
) -> Path | list[Path]:
    """Write one map per slice in the geometry of the input and return the path, or paths.

    NIfTI goes to ``<output_dir>/maps/<source.name>.nii.gz``, TIFF to ``.tif``. Slices of a DICOM source that are not
    evenly spaced along their common normal (a gap, a tilted gantry, a localiser), which no NIfTI volume can hold, go
    to one file each, ``<source.name>_sNNN.nii.gz``. Slices that were not scored, NaN in ``maps``, are written as 0:
    many viewers cannot show NaN. Names too long for the file system are shortened. Every file appears whole or not at
    all.

    Args:
        source: what the maps belong to.
        pieces: its slices in order, as they were read, which say where they lie; of PNG, JPEG and TIFF none is needed.
        maps: (N, H, W) float32, the source's slices in the order and orientation they are read in; NaN where a slice
            was not scored.
        output_dir: made if need be.

    Raises:
        ValueError: another number of maps than slices, or, for NIfTI, another shape.
        TypeError: a NIfTI source without a slice that was read.
        OSError: the file cannot be written.
    """
    if maps.ndim != 3 or len(maps) != source.n_slices:
        raise ValueError(
            f"maps of shape {maps.shape}, but the source has {source.n_slices} slice(s): (N, H, W) expected"
        )
    folder = Path(output_dir) / "maps"
    if source.kind == "nifti":
        grid = next((p.origin for p in pieces if isinstance(p.origin, NiftiGrid)), None)
        if grid is None:
            raise TypeError("a map on a NIfTI's voxels needs one of its slices, which brings the grid")
        return write_nifti_map(grid, maps, fitted(folder, source.name, ".nii.gz"))
    finite = np.nan_to_num(np.asarray(maps, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    planes = planes_of(pieces) if source.kind == "dicom" else None
    if planes is None:
        return _write_tiff(finite, fitted(folder, source.name, ".tif"))
    place = grid_of(planes)
    if place is not None:
        return _write_nifti(finite, affine_of(place.first, place.step), fitted(folder, source.name, ".nii.gz"))
    paths = [slice_path(folder, source, i, ".nii.gz") for i in range(len(planes))]
    return [
        _write_nifti(finite[i : i + 1], affine_of(plane, plane.thickness), path)
        for i, (plane, path) in enumerate(zip(planes, paths, strict=True))
        if plane is not None
    ]


def _write_nifti(maps: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    image = nib.Nifti1Image(maps.transpose(2, 1, 0), affine)
    image.set_sform(affine, code=1)  # 1: scanner coordinates
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = MARK.encode()
    write_atomically(path, gzip.compress(image.to_bytes(), mtime=0))
    return path


def _write_tiff(maps: np.ndarray, path: Path) -> Path:
    first, *rest = (Image.fromarray(np.ascontiguousarray(m)) for m in maps)
    content = io.BytesIO()
    first.save(
        content, format="TIFF", save_all=True, append_images=rest, compression="tiff_adobe_deflate", description=MARK
    )
    write_atomically(path, content.getvalue())
    return path
