"""The DICOM reader for MONAI's own pipelines: ``LoadImaged(keys, reader=DicomReader())``.

MONAI's readers sort by Instance Number, stack unlike series and skip rescales of enhanced objects; this one reads a
file or the one series of a folder as `invad_med.readers.dicom.pixels` does, and says no where that would be a guess.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from invad_med.data.slices import ReadError, Slice, Source
from invad_med.readers.dicom.headers import HeaderStack, read_header, stacks
from invad_med.readers.dicom.pixels import read
from invad_med.readers.dicom.planes import affine_of, grid_of
from invad_med.readers.dicom.stored import planes_of
from invad_med.readers.sources import scan


class DicomReader(ImageReader):
    """Read DICOM as (columns, rows, slices), or (columns, rows) for a single slice, with an affine to RAS in mm.

    Colour has a last axis of three. Without a regular grid in the patient the affine is the identity and ``space`` is
    left out.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return True: DICOM is told by content, not by name."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Source | ReadError:
        """Find the one series of a file, a folder, or a list of files.

        Returns:
            the series; or why there is none, which `get_data` raises. MONAI's ``LoadImage`` goes on with its other
            readers when this method raises, which would stack what was refused.
        """
        paths = [Path(str(p)) for p in ([data] if isinstance(data, str | os.PathLike) else data)]
        try:
            return _one(paths)
        except (ReadError, OSError, ValueError) as error:
            return error if isinstance(error, ReadError) else ReadError(str(error))

    def get_data(self, img: Source | ReadError) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the pixels, in Hounsfield units where there are some, and what MONAI wants to know of them.

        Raises:
            ReadError: no DICOM image, more than one series, or a file or slice that cannot be read.
        """
        if isinstance(img, ReadError):
            raise img
        pieces = read(img)
        slices = []
        for piece in pieces:
            if not isinstance(piece, Slice):
                raise piece
            slices.append(piece.pixels)
        volume = np.stack(slices)
        array = volume.transpose(2, 1, 0, *range(3, volume.ndim))
        array = array[:, :, 0] if len(slices) == 1 else array
        planes = planes_of(pieces)
        grid = grid_of(planes) if planes else None
        affine = affine_of(grid.first, grid.step) if grid else np.eye(4)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[: 2 if len(slices) == 1 else 3]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if volume.ndim == 4 else float("nan"),
            "unit": pieces[0].unit if isinstance(pieces[0], Slice) else "",
        }
        if grid is not None:
            meta[MetaKeys.SPACE] = SpaceKeys.RAS
        return np.ascontiguousarray(array), meta


def _one(paths: list[Path]) -> Source:
    if len(paths) == 1:
        found = scan(paths[0])
        if found.problems:
            raise ReadError(found.problems[0].reason)
        sources = [s for s in found.sources if s.kind == "dicom"]
    else:
        headers = [header for header in map(read_header, paths) if header is not None]
        sources = [_source(stack) for stack in stacks(headers)]
    if len(sources) != 1:
        raise ReadError(f"{len(sources)} DICOM series where one is expected; give the files of one")
    return sources[0]


def _source(stack: HeaderStack) -> Source:
    first, paths = stack.headers[0], tuple(h.path for h in stack.headers)
    return Source("dicom", paths, "series", stack.n_slices, first.modality, first.body_part, frames=stack.frames)
