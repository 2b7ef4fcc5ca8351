"""Anomaly maps of a NIfTI source, written back into the voxel grid of the source file."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from invad_med.data.own_results import MARK
from invad_med.files import write_atomically
from invad_med.readers.nifti import NiftiGrid, display_shape, to_voxels


def write_nifti_map(grid: NiftiGrid, maps: np.ndarray, path: str | Path) -> Path:
    """Write one map per slice as a float32 NIfTI on the grid of the source file, and return its path.

    Shape, affine, qform and sform with their codes, and units are the source file's; free text and extensions of its
    header, which can name the patient, are left out. The file appears whole or not at all.

    Args:
        grid: of the source, as its slices bring it.
        maps: (N, H, W) with N, H, W of the source's slices, in their display orientation; non-finite values
            (slices not scored) are written as 0.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made if need be.

    Raises:
        ValueError: another shape, another ending.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path must end in .nii or .nii.gz, not {path.name!r}")
    if maps.shape != display_shape(grid):
        raise ValueError(f"maps of shape {maps.shape}, but the source has slices, rows, columns {display_shape(grid)}")

    finite = np.nan_to_num(np.asarray(maps, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    header = grid.header.copy()
    header.extensions.clear()
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:  # db_name is NIfTI-1 only
            header[field] = b""
    header["descrip"] = MARK.encode()
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    data = kind(to_voxels(grid, finite), grid.affine, header).to_bytes()

    write_atomically(path, gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path
