"""NIfTI volumes as axial slices in radiological display, and 2-D NIfTI as it is.

A volume is reoriented to LPS by whole-axis flips and swaps (nothing is resampled): rows run anterior to posterior,
columns from the patient's right to left, slices from inferior to superior. `to_voxels` is the exact way back.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2 import Cifti2Image
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from invad_med.data.slices import Origin, ReadError, Slice, Source
from invad_med.readers.decoding import check_size, reading, value_range

SUFFIXES = (".nii", ".nii.gz")
_LPS = axcodes2ornt(("L", "P", "S"))
_MM = {"meter": 1000.0, "micron": 0.001}  # anything else, "unknown" included, is taken as mm


@dataclass(frozen=True, eq=False)
class NiftiGrid(Origin):
    """The voxel grid of a file, of which a map on the same grid is made; all slices of a file share it.

    Args:
        header: of NIfTI-1 or, as its class tells, NIfTI-2.
        affine: (4, 4), from voxel to RAS, in the units of the header.
        shape: of the stored array, axes of length 1 included.
    """

    header: nib.Nifti1Header = field(repr=False)  # its free text can name the patient
    affine: np.ndarray
    shape: tuple[int, ...]


def load(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file, header only; the file is closed again, so that its data cannot be asked for.

    Raises:
        ReadError: empty, damaged or not NIfTI; colour or complex values; 1-D, 4-D and more; a singular affine.
    """
    with _opened(path) as stream:
        return _image(stream)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file once and give its content, decompressed if it begins as gzip does."""
    with reading("NIfTI header"):
        file = path.open("rb")
    with file:
        with reading("NIfTI header"):
            if os.fstat(file.fileno()).st_size == 0:
                raise ReadError("empty file")
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
        yield gzip.GzipFile(fileobj=file) if compressed else file


def _image(stream: io.BufferedIOBase) -> nib.Nifti1Image:
    """Return the image of an open file, its header checked as `load` says; data can be had while the file is open."""
    with reading("NIfTI header"):
        start = stream.read(1024).ljust(1024, b"\0")
        kinds = (nib.Nifti1Image, Cifti2Image, nib.Nifti2Image)
        kind = next((k for k in kinds if k.header_class.may_contain_header(start)), None)
        if kind is None or kind is Cifti2Image:
            raise ReadError("not a NIfTI file")
        image = kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
        dtype = image.get_data_dtype()
        if dtype.fields or np.issubdtype(dtype, np.complexfloating):
            raise ReadError("NIfTI with colour or complex values; convert it to grey values, or colour to PNG")
        shape = _spatial(image)
        if len(shape) not in (2, 3):
            raise ReadError(f"{len(image.shape)}-D NIfTI of shape {image.shape}; split it into 3-D volumes, one a file")
        if len(shape) == 3 and np.isnan(io_orientation(image.affine)).any():
            raise ReadError("affine of the NIfTI header is singular; its axes cannot be told apart")
    return image


def count_slices(path: Path) -> int:
    """Return the number of axial slices (1 for a 2-D file), from the header; raise ReadError as `load` does."""
    return display_shape(load(path))[0]


def display_shape(image: nib.Nifti1Image | NiftiGrid) -> tuple[int, int, int]:
    """Return (slices, rows, columns) of what `read` makes of the image."""
    shape = _spatial(image)
    if len(shape) == 2:
        return 1, shape[1], shape[0]
    lps = [0, 0, 0]
    for size, (axis, _) in zip(shape, _to_lps(image), strict=True):
        lps[int(axis)] = size
    return lps[2], lps[1], lps[0]


def read(source: Source) -> list[Slice | ReadError]:
    """Decode the volume into axial slices, scl_slope and scl_inter applied, spacing in mm.

    NaN and infinite values, which brain extraction and registration leave outside the head, become the smallest
    finite value of the file. Hounsfield units cannot be told from the file, so the unit is always ``stored``.

    Raises:
        ReadError: as `load`; truncated or corrupt data; no finite value; an absurd size.
    """
    with _opened(source.paths[0]) as stream:
        image = _image(stream)
        count, rows, columns = display_shape(image)
        check_size(rows, columns, count)
        with reading("NIfTI data"), np.errstate(over="ignore", invalid="ignore"):
            voxels = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(_spatial(image))
    grid = NiftiGrid(image.header.copy(), np.asarray(image.affine), image.shape)
    with reading("NIfTI data"), np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(voxels)
        if not finite.any():
            raise ReadError("NIfTI holds no finite value")
        if not finite.all():
            voxels = np.where(finite, voxels, voxels[finite].min())
    millimetres = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    sizes = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0)) * millimetres
    if voxels.ndim == 2:
        slices, spacing = voxels.T[None], (sizes[1], sizes[0])
    else:
        transform = _to_lps(image)
        slices = apply_orientation(voxels, transform).transpose(2, 1, 0)
        lps = dict(zip(transform[:, 0].astype(int), sizes, strict=True))
        spacing = (lps[1], lps[0])
    known = (float(spacing[0]), float(spacing[1])) if min(spacing) > 0 else None
    shared = value_range([voxels])
    return [Slice(np.ascontiguousarray(s), source, i, "stored", shared, known, grid) for i, s in enumerate(slices)]


def to_voxels(image: nib.Nifti1Image | NiftiGrid, slices: np.ndarray) -> np.ndarray:
    """Put (N, H, W) slices in display orientation back into the voxel order and shape of the file they came from."""
    if len(_spatial(image)) == 2:
        return slices[0].T.reshape(image.shape)
    back = ornt_transform(_LPS, io_orientation(image.affine))
    return apply_orientation(slices.transpose(2, 1, 0), back).reshape(image.shape)


def _to_lps(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    return ornt_transform(io_orientation(image.affine), _LPS)


def _spatial(image: nib.Nifti1Image | NiftiGrid) -> tuple[int, ...]:
    """Return the shape without trailing axes of length 1, but at least two axes."""
    shape = list(image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return tuple(int(n) for n in shape)
