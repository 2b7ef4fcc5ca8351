"""Volumes as slices with their labels, in one orientation, physical spacing respected.

Orientation is the package's own (`invad_med.readers.nifti`): whole-axis flips and swaps to LPS display, rows anterior
to posterior, columns from the patient's right to left, slices from inferior to superior (thick coronal and sagittal
stacks as they were scanned); nothing is resampled for it.
What has to be resampled is, with SimpleITK: labels that lie on another grid than their image, to the image's grid
(nearest neighbour); slices whose pixels are not square, to the smaller of the two spacings (linear; nearest for masks).
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import SimpleITK as sitk

from data_prep.layout import PrepError
from invad_med.data.modalities import Modality
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.transforms import to_unit
from invad_med.readers import nifti
from invad_med.readers.dicom.headers import read_header
from invad_med.readers.dicom.planes import affine_of
from invad_med.readers.dicom.stored import planes_of

_AXIAL = (1, 0, 0, 0, 1, 0)
_PLACELESS = (
    "states no place in space (its header is what programs write by default), so that nothing says how image and mask "
    "lie to each other: save it with its partner's header"
)


@dataclass(frozen=True)
class Volume:
    """Axial slices, inferior to superior, labels (N, H, W) or None, and the distance of slices in mm (0 if one)."""

    slices: list[Slice]
    labels: np.ndarray | None
    distance: float


def read_volume(image: Path, label: Path | None = None) -> Volume:
    """Read a NIfTI volume and its label volume.

    Raises:
        PrepError: either cannot be read, or the label does not cover the image.
    """
    slices = _read(image)
    distance = slice_distance(slices[0].source) or 0.0
    return Volume(slices, None if label is None else read_labels(label, image), distance)


def read_labels(label: Path, image: Path) -> np.ndarray:
    """Read a label volume on the grid of its image: (N, H, W) float32, unrounded, slices as `read_volume` gives them.

    Raises:
        PrepError: it cannot be read, holds values that are not finite, states no place although its grid is another
            than the image's, or has less than half of what it marks where the image is.
    """
    (affine, shape), (own, own_shape) = _grid(image), _grid(label)
    if shape == own_shape and np.allclose(affine, own, atol=1e-2):
        return _values(label)
    if _is_placeless(label) or not _states_orientation(image):
        raise PrepError(f"{label if _is_placeless(label) else image} {_PLACELESS}")
    _refuse_not_finite(label)
    try:
        moving = sitk.ReadImage(str(label), sitk.sitkFloat32)
        still = sitk.Resample(moving, sitk.ReadImage(str(image)), sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    except RuntimeError as error:
        raise PrepError(f"{label} cannot be put on the grid of {image}: {str(error).splitlines()[-1]}") from None
    voxels = sitk.GetArrayFromImage(still).transpose(2, 1, 0)
    found, marked = (
        np.count_nonzero(sitk.GetArrayViewFromImage(grid)) * float(np.prod(grid.GetSpacing()))
        for grid in (still, moving)
    )  # mm3
    if found < 0.5 * marked:
        much = f"only {found / marked:.0%} of what it marks" if found else "nothing"
        raise PrepError(f"{label} marks {much} where {image} is: their positions in space do not match")
    return nifti.to_display(nifti.load(image), voxels.reshape(shape))


def mask_volume(pieces: Sequence[Slice], mask: Path) -> np.ndarray:
    """Read the NIfTI mask of a NIfTI or DICOM volume: (N, H, W) bool, slices as the reader gives the volume's.

    Marked is what is not 0 in the file, whatever its type: 1, 255, 65535, -1, 0.5.

    Args:
        pieces: all slices of the volume.
        mask: the file.

    Raises:
        PrepError: it cannot be read; it does not lie where the volume does; the volume is DICOM and not axial, so that
            its slices are no NIfTI's slices.
    """
    source = pieces[0].source
    if source.kind == "nifti":
        return read_labels(mask, source.paths[0]) != 0
    headers = [read_header(path) for path in (source.paths[0], source.paths[-1])]
    if any(h is None or h.orientation is None or not np.allclose(h.orientation, _AXIAL, atol=0.02) for h in headers):
        raise PrepError(f"{source.paths[0].parent} is not an axial series: its mask cannot be told slice by slice")
    labels = _values(mask) != 0
    if labels.shape == (len(pieces), *pieces[0].pixels.shape[:2]):  # of another size: for the caller to say
        _require_place(pieces, mask)
    return labels


def _require_place(pieces: Sequence[Slice], mask: Path) -> None:
    """Raise PrepError unless a mask of a DICOM volume's size lies where the volume does, to half a voxel."""
    planes = planes_of(pieces)
    if planes is None:
        return  # the series states no place
    affine = nifti.display_affine(nifti.load(mask))
    rows, columns = pieces[0].pixels.shape[:2]
    for index, plane in enumerate(planes):
        if plane is None:
            continue
        for row, column in ((0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)):
            meant = affine_of(plane, 1.0) @ [column, row, 0, 1]
            off = float(np.abs(affine @ [column, row, index, 1] - meant).max())
            if off > 0.5 * max(plane.spacing):
                if _is_placeless(mask):
                    raise PrepError(f"{mask} {_PLACELESS}")
                raise PrepError(
                    f"{mask} lies elsewhere than the series in {pieces[0].source.paths[0].parent}: corners of slice "
                    f"{index} are {off:.1f} mm apart; save it on the grid of that series"
                )


def slice_distance(source: Source) -> float | None:
    """Distance of neighbouring slices of a NIfTI volume or DICOM series in mm, or None where it is unknown."""
    if source.kind == "nifti" and source.n_slices > 1:
        return nifti.slice_distance(nifti.load(source.paths[0]))
    if source.kind == "dicom" and len(source.paths) > 1:
        first, last = read_header(source.paths[0]), read_header(source.paths[-1])
        if first and last and first.orientation is not None:
            return abs(last.position - first.position) / (len(source.paths) - 1) or None
    return None


def stored_volume(path: Path) -> np.ndarray:
    """Read a NIfTI volume (X, Y, Z) float32 in the order of the file, its orientation ignored, as BMAD did."""
    try:
        return np.asarray(nib.load(path).get_fdata(dtype=np.float32))  # type: ignore[attr-defined]
    except Exception as error:
        raise PrepError(f"{path} cannot be read: {error}") from None


def imsave(values: np.ndarray, cmap: str) -> np.ndarray:
    """Draw (H, W) as ``matplotlib.pyplot.imsave`` does, which BMAD used: own minimum to maximum, (H, W, 4) uint8."""
    low, high = float(values.min()), float(values.max())
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return matplotlib.colormaps[cmap](unit, bytes=True)


def to_8bit(piece: Slice, modality: Modality, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a slice as inference would see it, in 8 bit with square pixels, and its mask on the same grid.

    Args:
        piece: from any reader.
        modality: whose intensity recipe applies.
        mask: (H, W), marked where it is not 0, or None.

    Returns:
        (H, W) or (H, W, 3) uint8; bool mask or None.
    """
    unit = to_unit(piece, modality)
    if piece.spacing and abs(piece.spacing[0] / piece.spacing[1] - 1) > 0.01:
        unit = _square(unit, piece.spacing, sitk.sitkLinear)
        if mask is not None:
            mask = _square((mask != 0).astype(np.float32), piece.spacing, sitk.sitkNearestNeighbor)
    return np.round(unit * 255).astype(np.uint8), None if mask is None else mask != 0


def stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def find_niftis(source: Path) -> list[Path]:
    """All NIfTI files below a folder, sorted.

    Raises:
        PrepError: it is no folder.
    """
    if not source.is_dir():
        raise PrepError(f"{source} is not a folder")
    return sorted(p for p in source.rglob("*") if p.name.endswith(nifti.SUFFIXES) and not p.name.startswith("."))


def niftis_by_name(source: Path) -> dict[str, Path]:
    """Return the NIfTI files below a folder by name without ending.

    Raises:
        PrepError: it is no folder; two files of one name that differ, so that a label may be another image's.
    """
    files: dict[str, Path] = {}
    for path in find_niftis(source):
        first = files.setdefault(stem(path), path)
        if first is not path and not filecmp.cmp(first, path, shallow=False):
            raise PrepError(f"{first} and {path} have one name and differ: put one of them elsewhere, or rename it")
    return files


def _read(path: Path) -> list[Slice]:
    try:
        source = Source("nifti", (path,), stem(path), nifti.count_slices(path))
        pieces = nifti.read(source)
    except (ReadError, OSError) as error:
        raise PrepError(f"{path}: {error}") from None
    return [piece for piece in pieces if isinstance(piece, Slice)]


def _values(path: Path) -> np.ndarray:
    """Read a label or mask volume as the reader's slices: (N, H, W) float32, nothing rounded."""
    _refuse_not_finite(path)
    return np.stack([piece.pixels for piece in _read(path)])


def _refuse_not_finite(path: Path) -> None:
    """Raise for NaN and infinite values, which the reader replaces by the smallest: that may be a label."""
    try:
        if nifti.load(path).get_data_dtype().kind == "f" and not np.isfinite(stored_volume(path)).all():
            raise PrepError(f"{path} holds NaN or infinite values, which do not say what is marked: set them to 0")
    except (ReadError, OSError) as error:
        raise PrepError(f"{path}: {error}") from None


def _grid(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    try:
        image = nifti.load(path)
    except (ReadError, OSError) as error:
        raise PrepError(f"{path}: {error}") from None
    if len(image.shape) < 3:
        raise PrepError(f"{path} has shape {image.shape}; a volume with three axes is expected")
    return np.asarray(image.affine), tuple(image.shape[:3])


def _states_orientation(path: Path) -> bool:
    header = nifti.load(path).header
    return bool(int(header["qform_code"]) or int(header["sform_code"]))


def _is_placeless(path: Path) -> bool:
    """Whether a header states no orientation, or voxels of 1 mm that begin at 0, as of arrays saved without a place."""
    affine = np.asarray(nifti.load(path).affine)
    return not _states_orientation(path) or np.allclose(np.abs(affine), np.eye(4), rtol=0, atol=1e-6)


def _square(pixels: np.ndarray, spacing: tuple[float, float], interpolator: int) -> np.ndarray:
    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
    image.SetSpacing((spacing[1], spacing[0]))
    step = min(spacing)
    size = [max(1, round(n * s / step)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    # Edges of the field stay where they are: the first centre lies half a new pixel inside.
    origin = [0.5 * (step - s) for s in image.GetSpacing()]
    grid = sitk.Image(size, image.GetPixelID())
    grid.SetSpacing((step, step))
    grid.SetOrigin(origin)
    # Nearest beyond the outermost centres, where a linear interpolator would give 0.
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid)
    resampler.SetInterpolator(interpolator)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return sitk.GetArrayFromImage(resampler.Execute(image))
