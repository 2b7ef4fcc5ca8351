"""Regions as DICOM packs them (PS3.5 8.1.1): a bit a pixel, the first in the lowest, frames without a gap between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def packed(regions: Iterable[np.ndarray]) -> Iterator[bytes]:
    """Yield the bits of regions (H, W) bool, of which one begins where the last ends, also within a byte."""
    rest = np.zeros(0, bool)
    for region in regions:
        bits = np.concatenate([rest, region.ravel()])
        whole = len(bits) // 8 * 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    yield np.packbits(rest, bitorder="little").tobytes()
