"""NIfTI volumes as slices in radiological display, and 2-D NIfTI as it is.

A volume is turned by whole-axis flips and swaps (nothing is resampled); `to_voxels` is the exact way back.

| slices | when | rows run | columns run | slices run |
|---|---|---|---|---|
| axial | always but for the next two | anterior to posterior | right to left | inferior to superior |
| coronal | it was scanned so | superior to inferior | right to left | anterior to posterior |
| sagittal | it was scanned so | superior to inferior | anterior to posterior | right to left |

Scanned so is a volume with one slice in that direction, or with slices at least twice as far apart in that direction as
voxels in the others. Axes beyond the third must have length 1; a file of two axes, or no more than two dimensions, is
shown as it is. A file that states no orientation (qform_code and sform_code 0) is taken for x to the left, y to the
front, z upwards, as nibabel takes it (ITK takes y to the back).
"""

from __future__ import annotations

import gzip
import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.cifti2 import Cifti2Image
from nibabel.nifti1 import intent_codes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from invad_med.data.own_results import MARK
from invad_med.data.slices import Origin, ReadError, Slice, Source
from invad_med.files import digest_of
from invad_med.readers import spool
from invad_med.readers.decoding import MOST_PACKED, check_size, is_length, range_of_sample, reading, sample_step
from invad_med.readers.dicom.fitness import plane_note, said_of_plane, turned_note
from invad_med.readers.spool import Spool, pieces_of, turned

SUFFIXES = (".nii", ".nii.gz")
_DISPLAY = {  # directions in which columns, rows and slices run
    "axial": axcodes2ornt(("L", "P", "S")),
    "coronal": axcodes2ornt(("L", "I", "P")),
    "sagittal": axcodes2ornt(("P", "I", "L")),
}
_ACROSS = ("sagittal", "coronal", "axial")  # plane whose slices follow one another along x, y, z
_THICK = 2.0  # distance of slices by that of voxels in a slice from which on a volume is cut as it was scanned
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


def load(path: Path, file: BinaryIO | None = None) -> nib.Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file, header only; its data cannot be asked for.

    Args:
        path: the file.
        file: the same where it is open already, at its beginning; it stays open.

    Raises:
        ReadError: empty, damaged or not NIfTI; colour or complex values; 1-D, 4-D and more; a singular affine.
    """
    if file is not None:
        return _image(_content(file))
    with _opened(path) as (stream, _):
        return _image(stream)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, BinaryIO]]:
    """Open a file once and give its content, and the file."""
    with reading("NIfTI header"):
        file = path.open("rb")
    with file:
        yield _content(file), file


def _content(file: BinaryIO) -> io.BufferedIOBase:
    """Return the content of an open file, decompressed if it begins as gzip does."""
    with reading("NIfTI header"):
        if os.fstat(file.fileno()).st_size == 0:
            raise ReadError("empty file")
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return gzip.GzipFile(fileobj=file) if compressed else cast(io.BufferedIOBase, file)


def _image(stream: io.BufferedIOBase) -> nib.Nifti1Image:
    """Return the image of an open file, its header checked as `load` says; data can be had while the file is open."""
    with reading("NIfTI header"):
        start = stream.read(1024).ljust(1024, b"\0")
        kinds = (nib.Nifti1Image, Cifti2Image, nib.Nifti2Image)
        kind = next((k for k in kinds if k.header_class.may_contain_header(start)), None)
        if kind is None or kind is Cifti2Image:
            raise ReadError("not a NIfTI file")
        header: Any = kind.header_class
        raw = header(start[: header.sizeof_hdr], check=False)
        if not int(raw["sform_code"]) and (np.asarray(raw["pixdim"][1:4]) < 0).any():
            raise ReadError("voxel sizes (pixdim) are negative, which readers take differently; write it with an sform")
        image = kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
        offset = int(getattr(image.dataobj, "offset", header.sizeof_hdr))
        if offset < header.sizeof_hdr:
            raise ReadError(f"values are said to begin at byte {offset} (vox_offset), inside the header; write it anew")
        dtype = image.get_data_dtype()
        if dtype.fields or np.issubdtype(dtype, np.complexfloating):
            raise ReadError("NIfTI with colour or complex values; convert it to grey values, or colour to PNG")
        shape = _spatial(image)
        if min(image.shape, default=0) < 1:
            raise ReadError(f"header gives the shape {image.shape}, in which there is no voxel")
        needed, size = int(np.prod(image.shape, dtype=object)) * dtype.itemsize, os.fstat(stream.fileno()).st_size
        if needed > size * (MOST_PACKED if isinstance(stream, gzip.GzipFile) else 1):  # not a row for every slice
            raise ReadError(f"header says {needed} bytes of data, for which the file is too short: cut off or damaged")
        if len(shape) not in (2, 3):
            raise ReadError(f"{len(image.shape)}-D NIfTI of shape {image.shape}; split it into 3-D volumes, one a file")
        if not np.isfinite(image.affine).all():
            raise ReadError("affine of the NIfTI header is not finite; a map could not be placed by it")
        if len(shape) == 3 and np.isnan(io_orientation(_affine(image))).any():
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
    display = [0, 0, 0]
    for size, (axis, _) in zip(shape, _to_display(image), strict=True):
        display[int(axis)] = size
    return display[2], display[1], display[0]


def plane_of(image: nib.Nifti1Image | NiftiGrid) -> str | None:
    """Return in which plane a volume is cut into slices: axial, coronal or sagittal; None of a 2-D file."""
    shape = _spatial(image)
    if len(shape) == 2:
        return None
    sizes, counts = [0.0] * 3, [0] * 3
    axes = io_orientation(_affine(image))[:, 0].astype(int)  # of x, y, z
    for axis, size, count in zip(axes, _sizes(image), shape, strict=True):
        sizes[axis], counts[axis] = float(size), count
    single = [axis for axis in range(3) if counts[axis] == 1]
    if len(single) == 1:
        return _ACROSS[single[0]]
    thickest = int(np.argmax(sizes))
    others = [size for axis, size in enumerate(sizes) if axis != thickest]
    return _ACROSS[thickest] if not single and sizes[thickest] >= _THICK * max(others) else "axial"


def is_own(image: nib.Nifti1Image) -> bool:
    """Return whether a file is a map that this program wrote."""
    return bytes(image.header["descrip"]).rstrip(b"\0").decode("ascii", "replace") == MARK


def notes_of(image: nib.Nifti1Image) -> tuple[str, ...]:
    """Return sentences for the table on what a file is and how it was read."""
    plane, header, result = plane_of(image), image.header, []
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if plane is not None and not qform and not sform:
        result.append("the file states no orientation (qform_code and sform_code are 0): taken as left, front, top")
    if plane is not None and qform and sform and _disagree(header):
        result.append("qform and sform disagree on the directions of the axes: the sform is taken")
    if plane not in (None, "axial"):
        result.append(said_of_plane(str(plane)))
    elif plane is not None:
        orientation = _orientation(image)
        result += [note] if (note := plane_note(orientation) or turned_note(orientation)) else []
    intent = int(header["intent_code"])
    if intent:
        known = intent in intent_codes.value_set("code")
        what = intent_codes.label[intent] if known else "unknown"
        result.append(f"the file says that it holds something else than an image (intent code {intent}, {what})")
    return tuple(result)


def ascends(image: nib.Nifti1Image | NiftiGrid) -> bool:
    """Return whether the slices that a volume is cut into go from feet to head; of a 2-D file it is taken so."""
    plane = plane_of(image)
    return plane is None or (plane == "axial" and plane_note(_orientation(image)) is None)


def _disagree(header: nib.Nifti1Header) -> bool:
    """Return whether qform and sform name different axes of the patient, or one in the other direction."""
    try:
        q, s = (io_orientation(form) for form in (header.get_qform(), header.get_sform()))
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        return False  # the sform is a fine one, or the file would not have been read
    return not np.array_equal(q, s)


def _orientation(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    """Return the directions in which columns and rows of the display are counted, as Image Orientation (Patient)."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ _affine(image)[:3, :3]
    vectors = np.zeros((3, 3))
    for axis, (to, flip) in enumerate(_to_display(image)):
        vectors[int(to)] = lps[:, axis] * flip / np.linalg.norm(lps[:, axis])
    return vectors[:2].ravel()


def read(source: Source) -> Sequence[Slice | ReadError]:
    """Decode the volume into slices, scl_slope and scl_inter applied, spacing in mm.

    NaN and infinite values, which brain extraction and registration leave outside the head, become the smallest
    finite value of the file. Hounsfield units cannot be told from the file, so the unit is always ``stored``.

    Raises:
        ReadError: as `load`; truncated or corrupt data; no finite value; an absurd size.
    """
    with _opened(source.paths[0]) as (stream, file):
        image = _image(stream)
        count, rows, columns = display_shape(image)
        check_size(rows, columns, count)
        with reading("NIfTI data"), np.errstate(over="ignore", invalid="ignore"):
            slabs = _slabs(image, stream)
            digest = digest_of(file)
    grid = NiftiGrid(image.header.copy(), np.asarray(image.affine), image.shape)
    with reading("NIfTI data"):
        shared = range_of_sample(_sample(slabs), slabs)
        sizes = _sizes(image)
        if len(_spatial(image)) == 2:
            cut, spacing = turned(slabs, 2, lambda part: part.transpose(2, 1, 0)), (sizes[1], sizes[0])
        else:
            transform = _to_display(image)
            axis, backwards = slice_axis(image)
            cut = turned(slabs, axis, lambda part: to_display(image, part), backwards)
            display = dict(zip(transform[:, 0].astype(int), sizes, strict=True))
            spacing = (display[1], display[0])
        slices = Spool()
        for pixels in cut:
            slices.append(pixels.copy())
    known = (float(spacing[0]), float(spacing[1])) if all(map(is_length, spacing)) else None
    common = partial(Slice, source=source, unit="stored", value_range=shared, spacing=known, origin=grid, digest=digest)
    return pieces_of([(partial(common, index=i), i) for i in range(count)], slices)


def _slabs(image: nib.Nifti1Image, stream: io.BufferedIOBase) -> Spool:
    """Return the values of a file as float32 in slabs (X, Y) across its last axis, what is not finite filled.

    Some slabs are decoded at once: `invad_med.readers.spool.HELD` bytes of them, or one.
    """
    shape, dtype, stored = _spatial(image), image.get_data_dtype(), cast(ArrayProxy, image.dataobj)
    width, height, count = (*shape, 1)[:3]
    size = width * height * dtype.itemsize
    least, holes, slabs = np.float32(np.inf), [], Spool()
    stream.seek(stored.offset)
    at_once = max(1, spool.HELD // (4 * width * height))
    for start in range(0, count, at_once):
        some = min(at_once, count - start)
        content = stream.read(some * size)
        if len(content) < some * size:
            raise ReadError(f"data end after {start * size + len(content)} of {count * size} bytes: cut off or damaged")
        spec = (width, height, some), dtype, 0, stored.slope, stored.inter
        values = ArrayProxy(io.BytesIO(content), spec, mmap=False)
        voxels = np.asanyarray(values, dtype=np.float32)
        finite = np.isfinite(voxels)
        if not finite.all() and np.isfinite(np.asanyarray(values)[~finite]).any():
            raise ReadError("NIfTI holds values beyond 3.4e38, which are not read; scale them down before")
        least = min(least, voxels.min(where=finite, initial=np.inf))
        for k in range(some):
            slabs.append(voxels[..., k].copy())
            holes += [] if finite[..., k].all() else [start + k]
    if not np.isfinite(least):
        raise ReadError("NIfTI holds no finite value")
    for place in holes:
        slab = slabs[place]
        slabs.replace(place, np.where(np.isfinite(slab), slab, least))
    return slabs


def _sample(slabs: Spool) -> np.ndarray:
    """Return the values whose number, counted with the last axis first, is a multiple of `sample_step`.

    Number q * n + k has place q of slab k of n; so it is every step / gcd(step, n)-th of a slab, or none.
    """
    count = len(slabs)
    step = sample_step(sum(slab.size for slab in slabs))
    common = math.gcd(step, count)
    every, sample = step // common, []
    for k, slab in enumerate(slabs):
        if k % common == 0:
            start = -(k // common) * pow(count // common, -1, every) % every if every > 1 else 0
            sample.append(slab.ravel()[start::every].copy())
    return np.concatenate(sample)


def slice_axis(image: nib.Nifti1Image | NiftiGrid) -> tuple[int, bool]:
    """Return across which stored axis a volume is cut into slices, and whether the last place there comes first."""
    (axis,) = (a for a, (to, _) in enumerate(_to_display(image)) if int(to) == 2)
    return axis, bool(_to_display(image)[axis, 1] < 0)


def stored_axis(image: nib.Nifti1Image | NiftiGrid) -> tuple[int, bool]:
    """Return which axis of (rows, columns, slices) is the last of a file, and whether it is stored the other way."""
    if len(_spatial(image)) == 2:
        return 2, False
    to, direction = _to_display(image)[2]
    return (1, 0, 2)[int(to)], bool(direction < 0)


def to_voxels(image: nib.Nifti1Image | NiftiGrid, slices: np.ndarray) -> np.ndarray:
    """Turn slices (n, h, w), some or a part of each, back into the voxel order of their file: (x, y, z)."""
    if len(_spatial(image)) == 2:
        return slices.transpose(2, 1, 0)
    back = ornt_transform(_DISPLAY[plane_of(image) or "axial"], io_orientation(_affine(image)))
    return apply_orientation(slices.transpose(2, 1, 0), back)


def _to_display(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    return ornt_transform(io_orientation(_affine(image)), _DISPLAY[plane_of(image) or "axial"])


def to_display(image: nib.Nifti1Image | NiftiGrid, voxels: np.ndarray) -> np.ndarray:
    """Turn voxels of a volume's grid (X, Y, Z) as `read` turns the volume's own: (N, H, W)."""
    return apply_orientation(voxels, _to_display(image)).transpose(2, 1, 0)


def display_affine(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    """Return the (4, 4) affine from (column, row, slice) of what `read` makes of a volume to RAS mm."""
    return _affine(image) @ inv_ornt_aff(_to_display(image), _spatial(image))


def slice_distance(image: nib.Nifti1Image | NiftiGrid) -> float:
    """Return the distance of neighbouring slices in mm, 0 of a 2-D file."""
    if len(_spatial(image)) == 2:
        return 0.0
    return float(_sizes(image)[int(_to_display(image)[:, 0].argmax())])


def _affine(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    """Return the affine; a single slice without thickness lies across its own plane."""
    affine = np.array(image.affine, dtype=np.float64)
    if len(image.shape) >= 3 and image.shape[2] == 1 and not affine[:3, 2].any():
        across = np.cross(affine[:3, 0], affine[:3, 1])
        length = np.linalg.norm(across)
        affine[:3, 2] = across / length if length else 0.0
    return affine


def _sizes(image: nib.Nifti1Image | NiftiGrid) -> np.ndarray:
    """Return the distance of voxels along each stored axis in mm."""
    try:
        millimetres = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    except KeyError:  # a number that stands for no unit
        millimetres = 1.0
    return np.sqrt((_affine(image)[:3, :3] ** 2).sum(axis=0)) * millimetres


def _spatial(image: nib.Nifti1Image | NiftiGrid) -> tuple[int, ...]:
    """Return the shape without axes of length 1 beyond the third, but at least two axes."""
    shape = list(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(int(n) for n in shape)
