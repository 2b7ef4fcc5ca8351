"""Regions of a mask, and the weights that turn recall over pixels into mean overlap over regions (PRO).

PRO at a threshold is the mean over all regions of the share of each that lies above it; AUPRO is the area below (FPR,
PRO) for FPR <= 0.3, divided by 0.3 (Bergmann et al., CVPR 2020). A region is an 8-connected component of one image's
mask; FPR counts normal pixels of all images. A pixel of a region of a pixels contributes 1/a, so PRO is a weighted
recall and AUPRO is `invad_med.metrics.ranking.area_to` of weighted counts.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

FPR_LIMIT = 0.3
_EIGHT = np.ones((3, 3), dtype=int)


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return one over the size of each pixel's region, 0 outside, and the number of regions.

    Args:
        mask: (H, W) bool.

    Returns:
        ((H, W) float64 that sums to the number of regions, that number).
    """
    labels, count = ndimage.label(mask, structure=_EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
    weights = 1.0 / np.maximum(sizes, 1.0)
    weights[0] = 0.0
    return weights[labels], int(count)
