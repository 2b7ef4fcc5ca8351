"""Anomaly maps as files in the geometry of the input.

| source | file |
|---|---|
| NIfTI | NIfTI on the source's own voxel grid |
| DICOM with Image Orientation, Image Position (Patient) and Pixel Spacing of every slice | NIfTI placed by them |
| PNG, JPEG, TIFF; DICOM without that geometry | float32 TIFF of the same height and width, a page per slice |

Slices of a DICOM source that are not evenly spaced along their common normal (a gap, a tilted gantry, a localiser),
which no NIfTI volume can hold, go to one file each. NIfTI is compressed, TIFF within: values are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from invad_med.data.own_results import MARK
from invad_med.data.slices import Origin, ReadError, Slice, Source
from invad_med.readers.dicom.planes import affine_of
from invad_med.readers.dicom.stored import StoredImage
from invad_med.readers.nifti import NiftiGrid
from invad_med.writers.naming import fitted, slice_path
from invad_med.writers.nifti import GridFile, NiftiFile, placed_header
from invad_med.writers.tiff import TiffFile


def write_map(
    source: Source, pieces: Sequence[Slice | ReadError], maps: np.ndarray, output_dir: str | Path
) -> Path | list[Path]:
    """Write one map per slice in the geometry of the input and return the path, or paths, see `MapWriter`.

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
    writer = MapWriter(source, output_dir)
    try:
        for index, values in enumerate(maps):
            writer.add(index, pieces[index] if pieces else None, values)
        written = writer.finish()
    finally:
        writer.abandon()
    return written[0] if len(written) == 1 else written


class MapWriter:
    """Write the maps of a source as its slices come; nothing of a slice is held that was written.

    NIfTI goes to ``<output_dir>/maps/<source.name>.nii.gz``, TIFF to ``.tif``, files of one slice each to
    ``<source.name>_sNNN.nii.gz``. Slices that were not scored are written as 0: many viewers cannot show NaN. Names too
    long for the file system are shortened. Every file appears whole or not at all: one that holds several slices at the
    end.

    Args:
        source: what the maps belong to.
        output_dir: made if need be.
    """

    def __init__(self, source: Source, output_dir: str | Path) -> None:
        self._source, self._folder = source, Path(output_dir) / "maps"
        self._taken: dict[int, tuple[Origin | None, np.ndarray | None]] = {}  # and not written yet
        self._next = 0
        self._file: _MapFile | None = None
        self._blank = np.zeros((0, 0), np.float32)

    def add(self, index: int, piece: Slice | ReadError | None, values: np.ndarray | None) -> None:
        """Write the map of a slice; one that comes before others that precede it waits for them.

        Args:
            index: its position in the source.
            piece: the slice, which says where it lies.
            values: (H, W), its map; None, or values that are not finite, where it was not scored.

        Raises:
            ValueError, TypeError, OSError: as `write_map`; the maps are then to be abandoned.
        """
        origin = piece.origin if piece is not None else None
        if values is not None:
            values = np.nan_to_num(np.asarray(values, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        self._taken[index] = origin, values
        if self._file is None and values is not None:
            self._blank = np.zeros_like(values)
            self._file = self._begun(origin, values.shape)
        while self._file is not None and self._next in self._taken:
            self._write(self._file)

    def finish(self) -> list[Path]:
        """Write 0 for slices that did not come, put the files in place and return their paths: none without a map.

        Raises:
            OSError: as `write_map`; the maps are then to be abandoned.
        """
        if self._file is None:
            return []
        while self._next < self._source.n_slices:
            self._write(self._file)
        return self._file.finish()

    def abandon(self) -> None:
        """Leave no map; does nothing to files that are in place."""
        if self._file is not None:
            self._file.abandon()

    def _write(self, file: _MapFile) -> None:
        origin, values = self._taken.pop(self._next, (None, None))
        file.add(self._next, origin, self._blank if values is None else values)
        self._next += 1

    def _begun(self, origin: Origin | None, shape: tuple[int, ...]) -> _MapFile:
        source, folder = self._source, self._folder
        if source.kind == "nifti":
            if not isinstance(origin, NiftiGrid):
                raise TypeError("a map on a NIfTI's voxels needs one of its slices, which brings the grid")
            return _OneFile(GridFile(origin, fitted(folder, source.name, ".nii.gz")))
        if not isinstance(origin, StoredImage) or not origin.placed:
            return _OneFile(TiffFile(fitted(folder, source.name, ".tif"), MARK))
        if origin.grid is None:
            return _FilePerSlice(source, folder)
        header = placed_header((shape[1], shape[0], source.n_slices), affine_of(origin.grid.first, origin.grid.step))
        return _OneFile(_Columns(fitted(folder, source.name, ".nii.gz"), header))


class _MapFile(Protocol):
    """One way to store the maps of a source."""

    def add(self, index: int, origin: Origin | None, values: np.ndarray) -> None: ...

    def finish(self) -> list[Path]: ...

    def abandon(self) -> None: ...


class _Appended(Protocol):
    """A file that the maps of slices are added to."""

    def add(self, values: np.ndarray, /) -> None: ...

    def close(self) -> Path: ...

    def abandon(self) -> None: ...


class _OneFile:
    """All slices in one file, in order."""

    def __init__(self, file: _Appended) -> None:
        self._file = file

    def add(self, index: int, origin: Origin | None, values: np.ndarray) -> None:
        self._file.add(values)

    def finish(self) -> list[Path]:
        return [self._file.close()]

    def abandon(self) -> None:
        self._file.abandon()


class _Columns(NiftiFile):
    """A NIfTI file that slices (rows, columns) are added to."""

    def add(self, values: np.ndarray) -> None:
        super().add(values.T)


class _FilePerSlice:
    """A file for each slice whose place is known."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._paths: list[Path] = []

    def add(self, index: int, origin: Origin | None, values: np.ndarray) -> None:
        plane = origin.plane if isinstance(origin, StoredImage) else None
        if plane is None:
            return
        header = placed_header((values.shape[1], values.shape[0], 1), affine_of(plane, plane.thickness))
        file = _Columns(slice_path(self._folder, self._source, index, ".nii.gz"), header)
        try:
            file.add(values)
            self._paths.append(file.close())
        finally:
            file.abandon()

    def finish(self) -> list[Path]:
        return self._paths

    def abandon(self) -> None:
        """Leave files of slices: each is whole."""
