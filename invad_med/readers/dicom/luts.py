"""Lookup tables and rescales of DICOM images (PS3.3 C.11.1, C.11.2), applied in numbers wide enough for their index.

pydicom (3.0) indexes a VOI LUT in the width of its entries, so that one of 8 bits with more than 256 of them wraps
around, and cuts fractions off instead of rounding them.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from invad_med.data.slices import ReadError
from invad_med.readers.dicom.values import number


def rescale_of(item: Dataset) -> tuple[float, float] | None:
    """Return slope and intercept; None where one is missing or not finite, or the slope is 0: no scaling."""
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    return None if slope is None or intercept is None or slope == 0 else (slope, intercept)


def look_up(values: np.ndarray, table: Dataset, little_endian: bool) -> np.ndarray:
    """Return values through a table; those outside its range take its first or last entry, fractions are rounded.

    Args:
        values: stored or rescaled, any shape.
        table: an item of Modality LUT or VOI LUT Sequence.
        little_endian: byte order of the file.

    Raises:
        ReadError: the table holds fewer entries than it says, or does not say.
    """
    descriptor = table.get("LUTDescriptor")
    data = table.get("LUTData")
    if descriptor is None or len(descriptor) != 3 or data is None:
        raise ReadError("lookup table without descriptor (0028,3002) or data (0028,3006)")
    count, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        packed = bits <= 8 and len(data) < 2 * count
        entries = np.frombuffer(data, np.uint8 if packed else "<u2" if little_endian else ">u2")
    else:
        entries = np.atleast_1d(np.asarray(data))
    if len(entries) < count:
        raise ReadError(f"lookup table holds {len(entries)} entries, its descriptor says {count}")
    index = np.clip(np.rint(values.astype(np.float64)) - first, 0, count - 1).astype(np.int64)
    return entries[index].astype(np.float32)
