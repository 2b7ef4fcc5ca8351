"""Whether a picture shows anything that could be judged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from invad_med.data.modalities import Modality
from invad_med.data.slices import ReadError, Slice
from invad_med.data.transforms import square_of, to_unit

LEAST_SIDE = 8  # pixels
MOST_PIXELS = 2**28  # of the square that a slice is padded to: a sliver or an absurd spacing must not take all memory
_LEAST_RANGE = 1 / 510  # half a grey level of a display


class NoContrast(ReadError):
    """A slice that shows nothing which could be judged."""


def judged(piece: Slice | ReadError, modality: Modality) -> Slice | ReadError:
    """Return the slice if it can be judged, else why it must not be called normal or abnormal, or is too large for it.

    Args:
        piece: a slice, or why it could not be read, which is returned as it is.
        modality: how it is prepared.
    """
    if not isinstance(piece, Slice):
        return piece
    rows, columns = square_of(piece, modality)
    if rows * columns > MOST_PIXELS:  # before anything that size is made
        error = ReadError(f"made square it is {rows} x {columns} pixels, more than is read at once; crop it")
    elif (reason := without_contrast(to_unit(piece, modality))) is not None:
        error = NoContrast(reason)
    else:
        return piece
    error.origin, error.digest = piece.origin, piece.digest
    return error


def with_contrast(pieces: Iterable[Slice | ReadError], modality: Modality) -> list[int]:
    """Return the indices of the slices of a source that show anything, and of those that cannot be read or judged."""
    return [i for i, piece in enumerate(pieces) if not isinstance(judged(piece, modality), NoContrast)]


def without_contrast(unit_image: np.ndarray) -> str | None:
    """Return why a prepared picture must not be called normal or abnormal, or None.

    Args:
        unit_image: (H, W) or (H, W, 3) in [0, 1], as from `invad_med.data.transforms.to_unit`.

    Returns:
        a sentence for the table: all pixels are alike on the scale the picture is shown on, or it is a sliver.
    """
    height, width = unit_image.shape[:2]
    if min(height, width) < LEAST_SIDE:
        return f"no contrast: a picture of {height} x {width} pixels shows nothing that could be judged"
    if not float(np.ptp(unit_image)) > _LEAST_RANGE:  # also where it is no number
        return "no contrast: all pixels are alike on the scale that the picture is shown on"
    return None
