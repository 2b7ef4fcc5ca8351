"""Outlines of the region above threshold as polylines in DICOM's pixel coordinates.

The corner of the first pixel is (0, 0) and its centre (0.5, 0.5): PS3.3 C.10.5.1.2, C.18.6.1.1.
"""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator

_MOST_POINTS = 4000  # of a polyline: FL values of one element in Explicit VR take less than 64 KiB


def contours(values: np.ndarray, limit: float) -> list[np.ndarray]:
    """Return closed outlines of where a map exceeds a limit, the largest first.

    Args:
        values: (H, W) map.
        limit: the threshold.

    Returns:
        arrays (P, 2) of (column, row), first and last point equal, 4 <= P <= 4000; long ones are thinned.
    """
    padded = np.pad(np.asarray(values, np.float64), 1, constant_values=min(0.0, float(values.min())))
    height, width = values.shape
    result = []
    for line in contour_generator(z=padded).lines(limit):
        points = np.asarray(line)[:, :2] - 0.5  # less the padding, plus half a pixel
        if len(points) > _MOST_POINTS:
            step = -(-len(points) // (_MOST_POINTS - 1))
            points = np.concatenate([points[:-1:step], points[:1]])
        points = np.clip(points, 0.0, (width, height))
        if len(points) >= 4:
            result.append(points)
    return sorted(result, key=_area, reverse=True)


def _area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
