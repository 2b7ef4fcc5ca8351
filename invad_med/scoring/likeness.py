"""How unlike what a model was trained on an image is, by the moments of its encoding; `Familiarity` fits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

LEAST_DEVIATION = 1e-3  # of a channel in one image, by that over all


@dataclass(frozen=True)
class Likeness:
    """Statistics of the encodings of normal images, C channels each.

    Args:
        deviation: (C,) of each channel over all positions and images.
        centre, scale: (2C,) mean and deviation of an image's statistics over images.
        directions: (k, 2C) of largest variance.
        variances: (k,) these.
        rest: (1,) the mean of all others.
        limit: (1,) of the distance.

    Raises:
        ValueError: sizes that do not belong together.
    """

    deviation: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: np.ndarray
    limit: np.ndarray

    def __post_init__(self) -> None:
        channels, count = len(self.deviation), len(self.variances)
        wanted = [(channels,), (2 * channels,), (2 * channels,), (count, 2 * channels), (count,), (1,), (1,)]
        for field, shape in zip(fields(self), wanted, strict=True):
            found = getattr(self, field.name).shape
            if found != shape:
                raise ValueError(f"familiarity.{field.name} is {found}, and {shape} would fit its other statistics")

    @classmethod
    def of(cls, read: Callable[[str], np.ndarray]) -> Likeness:
        """Return the statistics that ``read`` gives by name."""
        return cls(*(read(field.name) for field in fields(cls)))

    def distance(self, moments: np.ndarray) -> np.ndarray:
        """Return how unlike the normal images others are; each image's depends on that image alone.

        Args:
            moments: (B, 2C) mean and deviation of each channel of their encodings over positions.

        Returns:
            (B,) >= 0; above 1 is beyond the limit.
        """
        standard = (statistics(moments, self.deviation) - self.centre) / self.scale
        along = standard @ self.directions.T.astype(np.float64)
        across = np.maximum(np.square(standard).sum(1) - np.square(along).sum(1), 0.0)
        squared = (np.square(along) / self.variances).sum(1) + across / self.rest
        return np.sqrt(squared / len(self.centre)) / self.limit


def statistics(moments: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return mean and logarithm of the deviation of each channel: (B, 2C) float64.

    Args:
        moments: (B, 2C) mean and deviation.
        deviation: (C,) over all images, of which that of an image counts as at least a small part.
    """
    mean, own = np.split(np.asarray(moments, np.float64), 2, axis=1)
    return np.concatenate([mean, np.log(np.maximum(own, LEAST_DEVIATION * deviation.astype(np.float64)))], axis=1)
