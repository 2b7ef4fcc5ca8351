"""Anomaly maps as NIfTI, written piece by piece: on the voxel grid of a NIfTI source, or placed by an affine."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from invad_med.data.own_results import MARK
from invad_med.files import WholeFile
from invad_med.readers.nifti import NiftiGrid, display_shape, stored_axis, to_voxels
from invad_med.readers.spool import Spool, turned
from invad_med.writers.deflate import gzip_stream


def write_nifti_map(grid: NiftiGrid, maps: np.ndarray, path: str | Path) -> Path:
    """Write one map per slice as a float32 NIfTI on the grid of the source file, and return its path.

    Args:
        grid: of the source, as its slices bring it.
        maps: (N, H, W) with N, H, W of the source's slices, in their display orientation; non-finite values
            (slices not scored) are written as 0.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made if need be.

    Raises:
        ValueError: another shape, another ending.
        OSError: the file cannot be written.
    """
    if maps.shape != display_shape(grid):
        raise ValueError(f"maps of shape {maps.shape}, but the source has slices, rows, columns {display_shape(grid)}")
    file = GridFile(grid, Path(path))
    try:
        for values in maps:
            file.add(np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0))
        return file.close()
    finally:
        file.abandon()


class NiftiFile:
    """A NIfTI file whose values are added in the order in which they are stored; it appears whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made if need be.
        header: of the whole file, for values of float32 that are not scaled.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, header: nib.Nifti1Header) -> None:
        if not path.name.endswith((".nii", ".nii.gz")):
            raise ValueError(f"path must end in .nii or .nii.gz, not {path.name!r}")
        self._stream = gzip_stream() if path.name.endswith(".gz") else None
        self._type = header.get_data_dtype()
        header.set_slope_inter(1.0, 0.0)
        header.set_data_offset(int(header["sizeof_hdr"]) + 4)
        self._file = WholeFile(path)
        self._write(header.binaryblock + bytes(4))  # no extensions

    def add(self, values: np.ndarray) -> None:
        """Write the next values, (x, y) or (x, y, z).

        Raises:
            OSError: they cannot be written.
        """
        self._write(values.astype(self._type, copy=False).tobytes(order="F"))

    def close(self) -> Path:
        """Put the file in place and return its path.

        Raises:
            OSError: that fails; nothing is left then.
        """
        if self._stream is not None:
            self._file.write(self._stream.flush())
        return self._file.close()

    def abandon(self) -> None:
        """Leave nothing; does nothing to a file that is in place."""
        self._file.abandon()

    def _write(self, content: bytes) -> None:
        self._file.write(self._stream.compress(content) if self._stream is not None else content)


class GridFile:
    """A map on the voxel grid of a NIfTI source, whose slices are added in order.

    Shape, affine, qform and sform with their codes, and units are the source file's; free text and extensions of its
    header, which can name the patient, are left out. Slices are written as they come where they are stored so, else all
    of them at the end; large ones wait in a temporary file, see `invad_med.readers.spool`.

    Args:
        grid: of the source, as its slices bring it.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made if need be.

    Raises:
        ValueError: another ending.
        OSError: the file cannot be written.
    """

    def __init__(self, grid: NiftiGrid, path: Path) -> None:
        self._grid = grid
        self._file = NiftiFile(path, _header_on(grid))
        self._axis, self._backwards = stored_axis(grid)
        self._waiting = Spool()

    def add(self, values: np.ndarray) -> None:
        """Add the map of the next slice: (H, W) float32, in display orientation.

        Raises:
            ValueError: another shape.
            OSError: it cannot be written.
        """
        if values.shape != display_shape(self._grid)[1:]:
            expected = display_shape(self._grid)
            raise ValueError(f"a map of shape {values.shape}, but the source has slices, rows, columns {expected}")
        if self._axis == 2 and not self._backwards:
            self._file.add(to_voxels(self._grid, values[None]))
        else:
            self._waiting.append(values)

    def close(self) -> Path:
        """Put the file in place and return its path.

        Raises:
            OSError: that fails; nothing is left then.
        """
        if len(self._waiting):
            for slab in turned(self._waiting, self._axis, self._turn, self._backwards):
                self._file.add(slab)
        return self._file.close()

    def abandon(self) -> None:
        """Leave nothing; does nothing to a file that is in place."""
        self._file.abandon()

    def _turn(self, part: np.ndarray) -> np.ndarray:
        """Return some rows, columns or slices of all (rows, columns, slices) as they are stored, last axis first."""
        return to_voxels(self._grid, part.transpose(2, 0, 1)).transpose(2, 0, 1)


def placed_header(shape: tuple[int, int, int], affine: np.ndarray) -> nib.Nifti1Header:
    """Return the header of a float32 map (columns, rows, slices) that an affine places, in mm."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)  # 1: scanner coordinates
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    header["descrip"] = MARK.encode()
    return header


def _header_on(grid: NiftiGrid) -> nib.Nifti1Header:
    """Return the header of a map on the grid of a file."""
    header = grid.header.copy()
    header.extensions.clear()
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:  # db_name is NIfTI-1 only
            header[field] = b""
    header["descrip"] = MARK.encode()
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header.set_data_dtype(np.float32)
    header.set_data_shape(grid.shape)
    return header
